// Calls of tools: asked about before they are made, and shown with what they answered.

import { choose } from "./dialogs.js";
import { t } from "./words.js";

let asking = false; // in the dialog that others use, too

/** Ask whether a call may be made; going away is a no, and "" says that it was withdrawn. */
export async function askCall({ shown, server }) {
  const title = t("call_sure", { shown, server });
  asking = true;
  const said = await choose(title, [["once", t("call_once"), "strong"], ["conversation", t("call_always"), ""], ["no", t("call_no"), ""]]);
  asking = false;
  return said;
}

/** Take the question away: it was answered elsewhere, or the answer has ended. */
export function withdrawCall() {
  if (asking) document.getElementById("choice").close("");
}

/** A call and its result, closed until it is asked for. */
export function called({ shown, text }) {
  const summary = document.createElement("summary");
  summary.textContent = t("called", { shown });
  const result = document.createElement("pre");
  result.textContent = text;
  const details = document.createElement("details");
  details.className = "file";
  details.append(summary, result);
  const article = document.createElement("article");
  article.className = "answer tool";
  article.setAttribute("aria-label", t("tool"));
  article.append(details);
  return article;
}

/** What a turn of role tool shows. */
export function ofTurn({ calls, content }) {
  const [{ name, arguments: written }] = calls;
  return called({ shown: `${name}(${written === "{}" ? "" : written})`, text: content });
}
