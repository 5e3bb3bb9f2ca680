// The settings: which model, how much of a conversation it keeps, in how many bits.

import * as api from "./api.js";
import { size } from "./welcome.js";
import * as words from "./words.js";

const { t } = words;
const $ = (id) => document.getElementById(id);
const WINDOWS = [-1, 512, 1024, 2048, 4096, 8192, 16384, 0];
const KINDS = ["auto", "f16", "q8_0", "q4_0"];

/** Open and fill the dialog; `changed` is called with the server's new standing. */
export class Settings {
  constructor(changed, speak) {
    this.changed = changed;
    $("model").addEventListener("change", (event) => this.set({ model: event.target.value }));
    $("window").addEventListener("change", (event) => this.set({ window: Number(event.target.value) }));
    $("kv").addEventListener("change", (event) => this.set({ kv_cache_dtype: event.target.value }));
    $("language").addEventListener("change", (event) => {
      words.choose(event.target.value);
      speak();
      this.fill(this.standing);
    });
  }

  open(standing) {
    this.fill(standing);
    $("settings-error").textContent = "";
    $("settings").showModal();
  }

  async set(change) {
    $("settings-error").textContent = "";
    try {
      const standing = await api.change(change);
      this.changed(standing);
      this.fill(standing);
    } catch (error) {
      $("settings-error").textContent = error.message || t("gone");
      this.fill(this.standing);
    }
  }

  fill(standing) {
    this.standing = standing;
    const models = standing.models.map((name) => [name, name]);
    if (!standing.models.includes(standing.chosen)) models.unshift([standing.chosen, standing.chosen]);
    options($("model"), models, standing.chosen);
    options($("window"), with_(WINDOWS, standing.window).map((n) => [n, windowName(n)]), standing.window);
    options($("kv"), with_(KINDS, standing.kv_cache_dtype).map((kind) => [kind, kind === "auto" ? t("kv_auto") : kind]), standing.kv_cache_dtype);
    $("language").value = words.current();
    const { model, memory_bytes: memory, link } = standing;
    facts([
      [t("parameters"), [size(model.num_parameters), model.quantization].filter((each) => each !== "none").join(", ")],
      [t("context"), t("tokens", { n: model.max_model_len.toLocaleString() })],
      [t("memory"), `${Math.round(memory / 1e6).toLocaleString()} MB`],
      [t("link"), link],
    ]);
  }
}

function with_(known, value) {
  return known.includes(value) ? known : [...known, value];
}

function windowName(n) {
  if (n === -1) return t("window_all");
  return n === 0 ? t("window_refuse") : t("tokens", { n: n.toLocaleString() });
}

function options(select, pairs, chosen) {
  select.replaceChildren(...pairs.map(([value, name]) => new Option(name, value, false, String(value) === String(chosen))));
}

function facts(pairs) {
  $("facts").replaceChildren(
    ...pairs.flatMap(([name, value]) => [
      Object.assign(document.createElement("dt"), { textContent: name }),
      Object.assign(document.createElement("dd"), { textContent: value }),
    ]),
  );
}
