// The settings: which model, how much of a conversation it keeps, in how many bits.

import * as api from "./api.js";
import { size } from "./welcome.js";
import { Presets } from "./presets.js";
import * as theme from "./theme.js";
import * as words from "./words.js";

const { t } = words;
const $ = (id) => document.getElementById(id);
const WINDOWS = [-1, 512, 1024, 2048, 4096, 8192, 16384, 0];
const KINDS = ["auto", "f16", "q8_0", "q4_0"];

/** Open and fill the dialog; `changed` is called with the server's new status. */
export class Settings {
  constructor(changed, speak) {
    this.changed = changed;
    $("model").addEventListener("change", (event) => this.set({ model: event.target.value }));
    $("window").addEventListener("change", (event) => this.set({ window: Number(event.target.value) }));
    $("kv").addEventListener("change", (event) => this.set({ kv_cache_dtype: event.target.value }));
    $("learning").addEventListener("change", (event) => this.set({ learn: event.target.value }));
    this.presets = new Presets((preset) => this.use(preset));
    $("preset-choice").addEventListener("change", (event) => this.set({ preset: event.target.value }));
    $("preset-edit").addEventListener("click", () => this.presets.open(this.status.preset, this.status.models));
    $("preset-new").addEventListener("click", () => this.presets.open("", this.status.models));
    $("theme").addEventListener("change", (event) => theme.choose(event.target.value));
    $("language").addEventListener("change", (event) => {
      words.choose(event.target.value);
      speak();
      this.fill(this.status);
    });
  }

  open(status) {
    this.fill(status);
    $("settings-error").textContent = "";
    $("settings").showModal();
  }

  /** Use a preset that was kept just now, or with "" none. */
  async use(preset) {
    const status = await api.change({ preset });
    this.changed(status);
    this.fill(status);
  }

  async set(change) {
    $("settings-error").textContent = "";
    try {
      const status = await api.change(change);
      this.changed(status);
      this.fill(status);
    } catch (error) {
      $("settings-error").textContent = error.message || t("gone");
      this.fill(this.status);
    }
  }

  fill(status) {
    this.status = status;
    const models = status.models.map((name) => [name, name]);
    if (!status.models.includes(status.chosen)) models.unshift([status.chosen, status.chosen]);
    options($("model"), models, status.chosen);
    options($("window"), with_(WINDOWS, status.window).map((n) => [n, windowName(n)]), status.window);
    options($("kv"), with_(KINDS, status.kv_cache_dtype).map((kind) => [kind, kind === "auto" ? t("kv_auto") : kind]), status.kv_cache_dtype);
    const learning = [["on", t("learning_on")], ["off", t("learning_off")]];
    if (status.learn === "ask") learning.unshift(["ask", t("learning_ask")]);
    options($("learning"), learning, status.learn);
    options($("preset-choice"), [["", t("preset_none")], ...status.presets.map((name) => [name, name])], status.preset);
    $("preset-edit").hidden = !status.preset;
    $("theme").value = theme.current();
    $("language").value = words.current();
    const { model, memory_bytes: memory, link } = status;
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
