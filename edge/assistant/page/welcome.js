// The empty page: what to ask, who will answer, and the next step for a newcomer.

import { t } from "./words.js";

const EXAMPLES = ["example_1", "example_2", "example_3"];
const KEYS = [["Enter", "key_send"], ["Shift Enter", "key_line"], ["Esc", "key_stop"], ["Ctrl K", "key_search"], ["Alt N", "key_new"]];

function make(tag, className, ...children) {
  const element = document.createElement(tag);
  element.className = className;
  element.append(...children);
  return element;
}

/** Return the number of a model's parameters, short. */
export function size(parameters) {
  const [n, unit] = parameters >= 1e9 ? [parameters / 1e9, "B"] : [parameters / 1e6, "M"];
  return `${n.toLocaleString(undefined, { maximumFractionDigits: 1 })} ${unit}`;
}

/** Return the empty page; `ask` asks a question that the shipped model can answer, `manage` opens a manager. */
export function welcome(status, { ask: example, manage }) {
  const head = [make("h2", "", t("welcome"))];
  if (status) head.push(make("p", "", t(`welcome_${mood(status)}`)));
  const shown = make("div", "welcome", ...head);
  if (status) shown.append(make("dl", "facts", ...who(status, manage)));
  if (!status || status.is_demonstration) shown.append(make("div", "examples", ...EXAMPLES.map((key) => ask(t(key), example))));
  shown.append(keys());
  return shown;
}

function mood(status) {
  if (status.private) return "private";
  if (!status.has_cloud) return "alone";
  return status.cloud === "away" ? "away" : status.asks ? "asks" : "far";
}

function who(status, manage) {
  const { model } = status;
  const near = t(status.is_demonstration ? "about_demonstration" : "about_model", { name: model.name, size: size(model.num_parameters) });
  const rows = [[t("near"), near, status.is_demonstration ? ["fetch_model", "near"] : null]];
  if (status.is_offline) rows.push([t("far"), t("about_offline"), null]);
  else if (!status.has_cloud) rows.push([t("far"), t("about_no_cloud"), ["add_cloud", "far"]]);
  else rows.push([t("far"), status.private ? t("private_on") : status.link, null]);
  return rows.flatMap(([name, words, next]) => [
    make("dt", "", name),
    make("dd", "", words, ...(next ? [" ", step(t(next[0]), () => manage(next[1]))] : [])),
  ]);
}

function step(words, taken) {
  const button = make("button", "step", words);
  button.addEventListener("click", taken);
  return button;
}

function ask(words, example) {
  const button = make("button", "example", words);
  button.addEventListener("click", () => example(words));
  return button;
}

function keys() {
  return make("p", "keys", ...KEYS.map(([key, what]) => make("span", "", make("kbd", "", key), ` ${t(what)}`)));
}
