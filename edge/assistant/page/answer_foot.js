// The line under an answer: who gave it and why, what left for it, and what can be done with it.

import { render } from "./markdown.js";
import { apart, make } from "./turn_parts.js";
import { t } from "./words.js";

/** Who answered, opened to why: the reason, how sure, how quick, what was sent. */
export function badge(route, turn) {
  const far = route.served_by === "cloud";
  const summary = make("summary", "", make("span", far ? "badge far" : "badge near", far ? t("far") : t("near")));
  const sent = leftBy(route, turn.finish.usage?.bytes_sent ?? 0);
  if (sent) summary.append(make("span", "sent", sent));
  const replaced = turn.finish.usage?.num_replaced;
  if (replaced) summary.append(make("span", "sent", t("replaced", { n: replaced })));
  if (route.model) summary.append(make("span", "model", route.model));
  summary.append(make("span", "reason", turn.reason ?? ""));
  summary.title = t("why");
  return make("details", "route", summary, make("p", "", turn.why ?? ""));
}

/** What left for an answer, as far as it is known; nothing is said of one that only stayed near. */
function leftBy(route, bytes) {
  if (bytes) return t("sent", { n: bytes.toLocaleString() });
  const failed = Boolean(route.failure);
  if (!route.sent_is_known && (failed || route.sent_is_known === false)) return t("may_have_left");
  if (route.served_by === "cloud") return t("not_counted");
  return failed ? t("nothing_sent") : "";
}

/** The far answer that came when the cloud was back, closed until it is asked for. */
export function better(turn) {
  const body = make("div", "body", ...render(apart(turn.content).answer));
  const summary = make("summary", "", make("span", "badge far", t("better")));
  return make("details", "better", summary, body, make("p", "remark", turn.why ?? ""));
}

export function copier(text) {
  const button = make("button", "small", t("copy"));
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(text);
    button.textContent = t("copied");
    setTimeout(() => (button.textContent = t("copy")), 1500);
  });
  return button;
}
