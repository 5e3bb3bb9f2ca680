// The far models: those that are set up, one more by an invite or an address, a test, and who is paired.

import * as api from "./api.js";
import { choose } from "./dialogs.js";
import { button, row } from "./models.js";
import { t } from "./words.js";

const $ = (id) => document.getElementById(id);
const FIELDS = ["cloud-line", "cloud-key", "cloud-model", "cloud-secret"];

export class Clouds {
  /** `changed` is called when another far model is set up. */
  constructor(changed) {
    this.changed = changed;
    $("clouds-test").addEventListener("click", () => this.test());
    $("cloud-add").addEventListener("click", () => this.add());
    $("cloud-line").addEventListener("input", () => this.asked());
  }

  async open() {
    $("clouds-error").textContent = "";
    this.fill(await api.clouds());
    this.asked();
    if (!$("clouds").open) $("clouds").showModal();
  }

  /** Ask for what belongs to the kind of address that stands there, and for nothing else. */
  asked() {
    const line = $("cloud-line").value.trim();
    $("cloud-link").hidden = !/^(tcp|ipc):/.test(line);
    $("cloud-http").hidden = !/^https?:/.test(line);
  }

  fill({ clouds, model, device_key: key, devices }, tests = []) {
    const told = new Map(tests.map((each) => [each.url, told_(each)]));
    const drop = (url) => button(t("models_remove"), url, () => this.drop(url), "danger");
    const rows = clouds.map((url) => row(url, told.get(url) ?? model, drop(url)));
    $("clouds-list").replaceChildren(...(rows.length ? rows : [row(t("clouds_none"), "")]));
    $("clouds-test").hidden = !rows.length;
    $("clouds-own").textContent = t("clouds_own", { key });
    $("clouds-devices").replaceChildren(...devices.map((each) => row(each.name, each.public_key)));
  }

  async tried(doing) {
    $("clouds-error").textContent = "";
    try {
      await doing();
    } catch (error) {
      $("clouds-error").textContent = error.message || t("gone");
    }
  }

  async add() {
    await this.tried(async () => {
      const [line, key, model, secret] = FIELDS.map((id) => $(id).value.trim());
      this.fill(await api.addCloud({ line, key, model, api_key: secret }));
      for (const id of FIELDS) $(id).value = "";
      this.asked();
      await this.changed();
    });
  }

  async drop(url) {
    const sure = await choose(t("clouds_drop_sure", { name: url }), [["drop", t("models_remove"), "danger"], ["", t("cancel"), ""]]);
    if (!sure) return;
    await this.tried(async () => {
      this.fill(await api.dropCloud(url));
      await this.changed();
    });
  }

  async test() {
    $("clouds-test").disabled = true;
    $("clouds-test").textContent = t("clouds_testing");
    await this.tried(async () => {
      const tests = await api.testClouds();
      this.fill(await api.clouds(), tests);
    });
    $("clouds-test").disabled = false;
    $("clouds-test").textContent = t("clouds_test");
  }
}

function told_({ card, measure, num_waiting: waiting, error }) {
  if (!card) return error;
  if (!measure) return t("clouds_answers", { model: card.name });
  if (measure.rtt_p50_s === null) return t("clouds_silent");
  return t("clouds_measured", { model: card.name, ms: (measure.rtt_p50_s * 1000).toFixed(1), waiting });
}
