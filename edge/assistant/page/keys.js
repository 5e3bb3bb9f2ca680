// The keyboard: what works anywhere on the page.

const $ = (id) => document.getElementById(id);
const WRITES = "input, textarea, select, dialog, [contenteditable]";

/** Listen for the page's keys; `isBusy` tells whether an answer is being written. */
export function listen({ isBusy, stop, close, blank, search }) {
  document.addEventListener("keydown", (event) => {
    const open = document.querySelector("dialog[open]");
    const key = event.key.toLowerCase();
    if (key === "escape" && isBusy() && !open) stop();
    else if (key === "escape" && !open) close();
    else if (event.altKey && (key === "n" || event.code === "KeyN") && !open) blank();
    else if ((event.ctrlKey || event.metaKey) && key === "k" && !open) {
      search();
      $("search").focus();
    } else {
      if (isText(event) && !open && !event.target.closest?.(WRITES)) $("question").focus();
      return; // the letter itself goes where it now belongs
    }
    event.preventDefault();
  });
}

const isText = (event) => event.key.length === 1 && event.key !== " " && !event.ctrlKey && !event.metaKey && !event.altKey;
