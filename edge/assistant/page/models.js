// The model manager: what is here, what fits, searched for, fetched, adopted and removed.

import * as api from "./api.js";
import { choose } from "./dialogs.js";
import { t } from "./words.js";

const $ = (id) => document.getElementById(id);
const LOOK_MS = 500; // between two looks at a download
const LEVEL = [[1e9, "GB", 2], [1e6, "MB", 0], [1e3, "kB", 0]];

/** Return a number of bytes, short. */
export function bytes(n) {
  const [unit, name, digits] = LEVEL.find(([least]) => n >= least) ?? LEVEL.at(-1);
  return `${(n / unit).toLocaleString(undefined, { maximumFractionDigits: digits })} ${name}`;
}

export function row(what, small, ...buttons) {
  const item = document.createElement("li");
  const words = document.createElement("span");
  words.className = "what";
  words.append(what, ...(small ? [Object.assign(document.createElement("small"), { textContent: small })] : []));
  item.append(words, ...buttons);
  return item;
}

export function button(words, name, pressed, kind = "") {
  const made = Object.assign(document.createElement("button"), { type: "button", className: `plain ${kind}`, textContent: words });
  made.setAttribute("aria-label", `${words} ${name}`);
  made.addEventListener("click", pressed);
  return made;
}

/** Let Enter in a field do something, and not close the dialog. */
export function entered(field, doing) {
  field.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.isComposing) return;
    event.preventDefault();
    doing();
  });
}

export class Models {
  /** `use` sets a model as the near one. */
  constructor(use) {
    this.use = use;
    this.watching = null;
    $("adopt").addEventListener("click", () => this.adopt());
    $("hub-search").addEventListener("click", () => this.search());
    entered($("hub-words"), () => this.search());
    for (const id of ["adopt-path", "adopt-name"]) entered($(id), () => this.adopt());
    $("models").addEventListener("close", () => clearTimeout(this.watching));
  }

  async open() {
    $("models-error").textContent = "";
    await this.fill();
    if (!$("models").open) $("models").showModal();
    await this.watch();
  }

  /** Do something that may be refused, and say why it was. */
  async tried(doing) {
    $("models-error").textContent = "";
    try {
      await doing();
    } catch (error) {
      $("models-error").textContent = error.message || t("gone");
    }
  }

  async fill() {
    const { free_bytes: free, hub, here, catalogue } = await api.models();
    $("models-free").textContent = t("models_free", { size: bytes(free) });
    $("models-hub").textContent = t("models_hub", { hub });
    $("models-here").replaceChildren(...here.map((each) => this.here(each)));
    const known = new Set(here.map(({ name }) => name));
    $("models-worth").replaceChildren(...catalogue.filter(({ name }) => !known.has(name)).map((each) => this.worth(each)));
  }

  here({ name, size_bytes: size, fits, used, removes }) {
    const small = `${bytes(size)} · ${t(used ? "models_in_use" : fits ? "models_fits" : "models_misfit")}`;
    const use = button(t("models_use"), name, () => this.tried(() => this.use(name).then(() => this.fill())));
    const drop = button(t(removes === "forgets" ? "models_forget" : "models_remove"), name, () => this.remove(name, removes), removes === "deletes" ? "danger" : "");
    return row(name, small, ...(used ? [] : [use]), ...(removes && !used ? [drop] : []));
  }

  worth({ name, size_gb: size, licence, about, misfit }) {
    const small = t("models_about", { size: bytes(size * 1e9), licence, about });
    return this.fetched(name, name, small, misfit);
  }

  /** A row of what can be fetched by a name; what does not fit is said, and fetched all the same if wanted. */
  fetched(shown, name, small, misfit) {
    const fetch = button(t(misfit ? "models_anyway" : "models_fetch"), name, () => this.pull(name, Boolean(misfit)));
    const made = row(shown, small, fetch);
    if (misfit) made.querySelector("small").append(" ", Object.assign(document.createElement("span"), { className: "misfit", textContent: t("models_misfit"), title: misfit }));
    return made;
  }

  async search() {
    await this.tried(async () => {
      const found = await api.searchHub($("hub-words").value);
      const none = row(t("nothing_found"), "");
      $("models-found").replaceChildren(...(found.length ? found.map((each) => this.found(each)) : [none]));
    });
  }

  found({ id, downloads, gated }) {
    const small = [t("models_downloads", { n: downloads.toLocaleString() }), ...(gated ? [t("models_gated")] : [])].join(" · ");
    const made = row(id, small);
    made.append(button(t("models_files"), id, () => this.tried(() => this.files(id, made))));
    return made;
  }

  async files(repo, at) {
    const files = await api.hubFiles(repo);
    const list = Object.assign(document.createElement("ul"), { className: "rows" });
    list.append(...files.map(({ name, size_bytes: size, misfit }) => this.fetched(name.slice(repo.length + 1), name, bytes(size), misfit)));
    at.querySelector(".rows")?.remove();
    at.append(list);
  }

  async pull(name, anyway) {
    await this.tried(() => api.pull(name, anyway));
    await this.watch();
  }

  /** Show the downloads, and look again while one of them runs. */
  async watch() {
    clearTimeout(this.watching);
    const pulls = await api.pulls().catch(() => null);
    if (!pulls || !$("models").open) return;
    const ran = this.running ?? 0;
    this.running = pulls.filter(({ state }) => ["running", "stopping"].includes(state)).length;
    $("models-pulls").replaceChildren(...pulls.map((each) => this.download(each)));
    if (this.running < ran) await this.tried(() => this.fill());
    if (this.running) this.watching = setTimeout(() => this.watch(), LOOK_MS);
  }

  download({ name, done_bytes: done, total_bytes: total, state, error }) {
    const begins = state === "running" && !total;
    const words = begins ? t("pull_begins") : t(`pull_${state}`, { done: bytes(done), total: bytes(total) });
    const runs = ["running", "stopping"].includes(state);
    const stop = button(t(runs ? "models_stop" : "models_clear"), name, () => this.tried(() => api.stopPull(name).then(() => this.watch())));
    const again = state === "stopped" || state === "failed" ? [button(t("models_fetch"), name, () => this.pull(name, false))] : [];
    const made = row(name, error || words, ...again, stop);
    if (runs) made.append(bar(name, done, total));
    return made;
  }

  async adopt() {
    await this.tried(async () => {
      await api.adopt($("adopt-path").value, $("adopt-name").value);
      for (const id of ["adopt-path", "adopt-name"]) $(id).value = "";
      await this.fill();
    });
  }

  async remove(name, removes) {
    const sure = removes === "forgets" || (await choose(t("models_remove_sure", { name }), [["delete", t("delete"), "danger"], ["", t("cancel"), ""]]));
    if (sure) await this.tried(() => api.removeModel(name).then(() => this.fill()));
  }
}

function bar(name, done, total) {
  const made = document.createElement("progress");
  made.setAttribute("aria-label", name);
  made.max = total || 1;
  if (total) made.value = done;
  return made;
}
