// Presets: a persona, its sampling, a model and its privacy under one name; made, changed, removed.

import * as api from "./api.js";
import { t } from "./words.js";

const $ = (id) => document.getElementById(id);
const NUMBERS = ["temperature", "top_p", "max_tokens"];

/** The dialog of one preset; `kept` is called with the name that is to be used then. */
export class Presets {
  constructor(kept) {
    this.kept = kept;
    this.before = null; // what is kept of it beside what the dialog shows
    this.name = "";
    $("preset-save").addEventListener("click", () => this.save());
    $("preset-delete").addEventListener("click", () => this.remove());
  }

  /** Open one by its name, or with "" a new one; `models` can be chosen. */
  async open(name, models) {
    const known = await api.presets();
    this.name = name;
    this.before = known[name] ?? {};
    $("preset-name").value = name;
    $("preset-system").value = this.before.system ?? "";
    const model = this.before.model ?? "";
    const names = ["", ...models, ...(models.includes(model) ? [] : [model].filter(Boolean))];
    $("preset-model").replaceChildren(...names.map((each) => new Option(each || t("preset_any"), each, false, each === model)));
    for (const each of NUMBERS) $(`preset-${each}`).value = this.before[each] ?? "";
    $("preset-private").checked = this.before.privacy === "local_only";
    $("preset-delete").hidden = !known[name];
    $("preset-error").textContent = "";
    $("preset").showModal();
  }

  get shown() {
    const numbers = NUMBERS.map((each) => [each, $(`preset-${each}`).value === "" ? null : Number($(`preset-${each}`).value)]);
    const before = this.before.privacy === "local_only" ? null : (this.before.privacy ?? null);
    const privacy = $("preset-private").checked ? "local_only" : before;
    return { ...this.before, system: $("preset-system").value, model: $("preset-model").value, ...Object.fromEntries(numbers), privacy };
  }

  async save() {
    const name = $("preset-name").value.trim();
    if (!$("preset").querySelector("form").reportValidity()) return;
    await this.tried(async () => {
      await api.keepPreset(name, this.shown);
      if (this.name && this.name !== name) await api.removePreset(this.name);
      await this.kept(name);
    });
  }

  async remove() {
    await this.tried(async () => {
      await api.removePreset(this.name);
      await this.kept("");
    });
  }

  async tried(doing) {
    try {
      await doing();
      $("preset").close();
    } catch (error) {
      $("preset-error").textContent = error.message || t("gone");
    }
  }
}
