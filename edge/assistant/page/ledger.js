// What left this device: when, to whom, how much, why, and in which conversation.

import * as api from "./api.js";
import { counted } from "./dialogs.js";
import * as words from "./words.js";

const { t } = words;
const $ = (id) => document.getElementById(id);

/** The list, with a search in it; `go` opens a conversation. */
export class Ledger {
  constructor(go) {
    this.go = go;
    $("ledger-find").addEventListener("input", () => this.fill());
    $("ledger-kind").addEventListener("change", () => this.fill());
    // Enter in the search is no reason to close.
    $("ledger-find").addEventListener("keydown", (event) => event.key === "Enter" && event.preventDefault());
  }

  async open() {
    await this.fill();
    if (!$("ledger").open) $("ledger").showModal();
  }

  async fill() {
    const { left, totals } = await api.ledger($("ledger-find").value, $("ledger-kind").value);
    $("ledger-totals").textContent = t("ledger_totals", { n: totals.departures.toLocaleString(), bytes: totals.num_bytes.toLocaleString() });
    $("ledger-list").replaceChildren(...(left.length ? left.map((each) => this.row(each)) : [item(t(totals.departures ? "nothing_found" : "ledger_none"))]));
  }

  row({ left_at: when, endpoint, num_bytes: bytes, at_most: most, reason, found, state, conversation, title }) {
    const moment = new Date(when * 1000).toLocaleString(words.current());
    const size = t(most ? "ledger_at_most" : "sent", { n: bytes.toLocaleString() });
    const row = item(`${moment} · ${size}`);
    row.append(line(endpoint), line(reason), ...(Object.keys(found).length ? [line(counted(found).join(" "))] : []));
    if (state !== "answered") row.append(line(t(`ledger_${state}`)));
    if (conversation) row.append(this.link(conversation, title));
    return row;
  }

  link(conversation, title) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "small";
    button.textContent = title || t("untitled");
    button.addEventListener("click", () => {
      $("ledger").close();
      this.go(conversation);
    });
    return button;
  }
}

function item(text) {
  const made = document.createElement("li");
  const head = document.createElement("strong");
  head.textContent = text;
  made.append(head);
  return made;
}

function line(text) {
  const made = document.createElement("p");
  made.textContent = text;
  return made;
}
