// The conversations at the side, by day, or what a search found.

import { t } from "./words.js";

function day(seconds) {
  const start = new Date().setHours(0, 0, 0, 0) / 1000;
  return seconds >= start ? "today" : seconds >= start - 86400 ? "yesterday" : "earlier";
}

/** Show the hits; `searching` leaves out the days and shows the words around what was found. */
export function show(list, hits, { selected, searching, open }) {
  const rows = [];
  let last = "";
  for (const hit of hits) {
    const { heading, excerpt } = hit;
    const when = heading.pinned ? "pinned" : day(heading.changed_at);
    if (!searching && when !== last) rows.push(label(t((last = when))));
    rows.push(row(heading, searching ? excerpt : "", heading.id === selected, () => open(hit)));
  }
  if (!rows.length) rows.push(label(t(searching ? "nothing_found" : "none_yet")));
  list.replaceChildren(...rows);
}

/** Walk through the list, and from the search into it, by the arrow keys; Enter in the search opens the first. */
export function listen(list, search) {
  const step = (event) => {
    const rows = [...list.querySelectorAll("button")];
    const at = rows.indexOf(document.activeElement);
    if (event.key === "Enter" && event.target === search && !event.isComposing) rows[0]?.click();
    else if (event.key === "ArrowDown") rows[Math.min(at + 1, rows.length - 1)]?.focus();
    else if (event.key === "ArrowUp") (at > 0 ? rows[at - 1] : search).focus();
    else return;
    event.preventDefault();
  };
  for (const each of [list, search]) each.addEventListener("keydown", step);
}

function label(words) {
  const item = document.createElement("li");
  item.className = "day";
  item.textContent = words;
  return item;
}

function row(heading, excerpt, selected, open) {
  const button = document.createElement("button");
  button.className = "conversation";
  button.dataset.id = heading.id;
  if (selected) button.setAttribute("aria-current", "true");
  const title = document.createElement("span");
  title.textContent = heading.title || t("untitled");
  button.append(title);
  if (excerpt && excerpt !== heading.title) {
    const found = document.createElement("small");
    found.textContent = excerpt;
    button.append(found);
  }
  button.addEventListener("click", open);
  const item = document.createElement("li");
  item.append(button);
  return item;
}
