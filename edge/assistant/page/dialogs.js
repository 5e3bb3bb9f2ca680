// Questions to the person: one dialog for choices and names, one for whether text may leave.

import { t } from "./words.js";

const $ = (id) => document.getElementById(id);

function closed(dialog) {
  return new Promise((resolve) => dialog.addEventListener("close", () => resolve(dialog.returnValue), { once: true }));
}

/** Ask with buttons of [value, words, class]; return the value, "" where the person went away. */
export async function choose(title, buttons) {
  return (await open(title, buttons, null)).value;
}

/** Ask for a line of text; return it, or null. */
export async function line(title, text) {
  const { value, text: written } = await open(title, [["ok", t("done"), "strong"], ["", t("cancel"), ""]], text);
  return value === "ok" ? written.trim() : null;
}

async function open(title, buttons, text) {
  const dialog = $("choice");
  $("choice-title").textContent = title;
  $("choice-text").hidden = text === null;
  $("choice-text").value = text ?? "";
  $("choice-buttons").replaceChildren(...buttons.map(button));
  dialog.returnValue = "";
  dialog.showModal();
  if (text !== null) $("choice-text").select();
  const value = await closed(dialog);
  return { value, text: $("choice-text").value };
}

function button([value, words, kind]) {
  const made = document.createElement("button");
  made.value = value;
  made.textContent = words;
  made.className = `plain ${kind}`;
  return made;
}

/** Ask whether text may leave the device; going away is a no, and "" says that it was withdrawn. */
export async function askConsent(bytes) {
  const dialog = $("consent");
  $("consent-text").textContent = t("consent_text", { n: bytes.toLocaleString() });
  dialog.returnValue = "no";
  if (!dialog.open) dialog.showModal();
  return closed(dialog);
}

/** Take the question away: the answer no longer waits for it. */
export function withdrawConsent() {
  if ($("consent").open) $("consent").close("");
}
