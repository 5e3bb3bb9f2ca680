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
export async function askConsent(leaving) {
  const dialog = $("consent");
  const to = [leaving.model, leaving.endpoint].filter(Boolean).join(", ");
  $("consent-text").textContent = t("consent_text", { n: leaving.num_bytes.toLocaleString(), to });
  $("consent-leaves").replaceChildren(...leaves(leaving.turns));
  $("consent-facts").textContent = factsOf(leaving).join(" ");
  dialog.returnValue = "no";
  if (!dialog.open) dialog.showModal();
  return closed(dialog);
}

/** The exact text: what is asked last, and the turns before it folded. */
function leaves(turns) {
  const drawn = turns.map(({ role, pieces }) => made("p", role, ...pieces.map(piece)));
  const asked = drawn.pop();
  if (!drawn.length) return [asked];
  return [made("details", "", made("summary", "", t("consent_earlier", { n: drawn.length })), ...drawn), asked];
}

function piece({ text, original }) {
  if (!original) return text;
  const mark = made("mark", "", text);
  mark.title = original;
  return made("span", "kept", mark, made("small", "", original));
}

/** What was found, what stays, and whether a rule keeps it all here. */
function factsOf({ found, turns, left_out: stays, blocked }) {
  const said = counted(found);
  const pictures = turns.reduce((sum, turn) => sum + turn.num_pictures, 0);
  if (pictures) said.push(t("consent_pictures", { n: pictures }));
  if (stays) said.push(t("consent_stays", { n: stays }));
  if (blocked) said.push(t("consent_blocked"));
  return said;
}

/** Say how many of each kind were found, and what is done with them. */
export function counted(found) {
  const kinds = new Map();
  for (const [name, n] of Object.entries(found ?? {})) {
    const [kind, action] = name.split(" ");
    const [all, replaced] = kinds.get(kind) ?? [0, 0];
    kinds.set(kind, [all + n, replaced + (action === "redact" ? n : 0)]);
  }
  return [...kinds].map(([kind, [of, n]]) => t("kind_count", { kind: t(`kind_${kind}`), n, of }));
}

function made(tag, className, ...children) {
  const element = document.createElement(tag);
  element.className = className;
  element.append(...children);
  return element;
}

/** Take the question away: the answer no longer waits for it. */
export function withdrawConsent() {
  if ($("consent").open) $("consent").close("");
}
