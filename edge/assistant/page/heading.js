// What can be done with the open conversation as a whole: its title, its place, its end, its export.

import * as api from "./api.js";
import { choose, line } from "./dialogs.js";
import * as place from "./place.js";
import { t } from "./words.js";

const $ = (id) => document.getElementById(id);
const UNDO_MS = 60_000; // the server keeps what was deleted for longer

let undoing = null; // the timer that takes the offer to undo away

/** Say what was done, with a button that undoes it. */
function undoable(words, undo) {
  const button = document.createElement("button");
  button.className = "small";
  button.textContent = t("undo");
  button.addEventListener("click", () => {
    $("undo").hidden = true;
    undo();
  });
  $("undo").replaceChildren(words, " ", button);
  $("undo").hidden = false;
  clearTimeout(undoing);
  undoing = setTimeout(() => ($("undo").hidden = true), UNDO_MS);
}

/** Let a person save a blob as a file. */
export function save(blob, name) {
  const anchor = document.createElement("a");
  anchor.href = URL.createObjectURL(blob);
  anchor.download = name;
  anchor.click();
  URL.revokeObjectURL(anchor.href);
}

/** Listen to the buttons beside the title; `current` tells which conversation is open. */
export function listen({ act, current, refresh, open, blank }) {
  $("rename").addEventListener("click", async () => {
    const name = await line(t("rename_title"), $("title").textContent);
    if (!name) return;
    await act(() => api.rename(current(), name).then(refresh));
    place.tell(null);
  });

  $("pin").addEventListener("click", async () => {
    const pinned = $("pin").getAttribute("aria-pressed") !== "true";
    await act(() => api.pin(current(), pinned).then(refresh));
    place.tell(null);
  });

  $("delete").addEventListener("click", async () => {
    const [gone, name] = [current(), $("title").textContent];
    const sure = await choose(t("delete_sure", { name }), [["delete", t("delete"), "danger"], ["", t("cancel"), ""]]);
    if (!sure || !(await act(() => api.remove(gone)))) return;
    place.tell(gone);
    blank();
    undoable(t("deleted", { name }), async () => {
      if (!(await act(() => api.restore(gone)))) return;
      place.tell(null);
      await open(gone);
    });
  });

  $("export").addEventListener("click", async () => {
    const form = await choose(t("export_title"), [["markdown", "Markdown", "strong"], ["json", "JSON", ""], ["", t("cancel"), ""]]);
    const blob = form && (await act(() => api.exported(current(), form)));
    if (blob) save(blob, `${$("title").textContent.replace(/[^\p{L}\p{N}]+/gu, "-")}.${form === "json" ? "json" : "md"}`);
  });
}
