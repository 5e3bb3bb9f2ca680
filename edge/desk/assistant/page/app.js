// The page: which conversation is open, what is asked, and what to do when the server is gone.

import * as api from "./api.js";
import { Composer } from "./composer.js";
import { askConsent, choose, line, withdrawConsent } from "./dialogs.js";
import { show as showList } from "./list.js";
import { Settings } from "./settings.js";
import { Thread } from "./thread.js";
import * as words from "./words.js";

const { t } = words;
const $ = (id) => document.getElementById(id);
const RETRY_MS = 2000;
const BETTER_MS = 3000; // between two looks for a better answer, while one may come

let current = null; // the id of the open conversation; null before its first question
let standing = null;
let following = null; // aborts the stream that is being read
let hoping = null; // the timer of the next look for a better answer
let last = null; // the last answer's usage

const thread = new Thread($("thread"), { retry: (side) => send(null, side), example: (text) => send(text) });
const composer = new Composer({ send, stop: () => current && act(() => api.stop(current)), fail: notice });
const settings = new Settings(stand);

/** Do something that needs the server; say what went wrong, and return undefined then. */
async function act(doing) {
  try {
    const done = await doing();
    notice("");
    return done;
  } catch (error) {
    if (error.name === "AbortError") return undefined;
    if (!(error instanceof api.Refused)) throw error;
    notice(error.status === 401 ? t("locked") : error.message || t("gone"));
    if (error.status === 0) setTimeout(comeBack, RETRY_MS);
    return undefined;
  }
}

let returning = false;

async function comeBack() {
  if (returning) return;
  returning = true;
  while (!(await api.standing().catch(() => null))) await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
  returning = false;
  await start();
  if (current) await open(current);
}

function notice(words) {
  $("notice").textContent = words;
  $("notice").hidden = !words;
}

function stand(now) {
  standing = now;
  thread.canAskCloud = now.has_cloud && !now.private;
  $("private").setAttribute("aria-checked", String(now.private));
  composer.setBusy(composer.busy);
  const parts = [now.model.name];
  if (last?.decode_s && last.completion_tokens > 1) parts.push(`${Math.round(last.completion_tokens / last.decode_s)} tokens/s`);
  if (last?.prompt_tokens) parts.push(`${t("context")} ${Math.min(last.prompt_tokens + last.completion_tokens, now.model.max_model_len)}/${now.model.max_model_len}`);
  parts.push(`${Math.round(now.memory_bytes / 1e6).toLocaleString()} MB`, now.link);
  $("status").textContent = parts.join(" · ");
}

async function refresh() {
  const wanted = $("search").value;
  const hits = await api.conversations(wanted);
  showList($("list"), hits, { selected: current, searching: Boolean(wanted.trim()), open });
  const heading = hits.find((hit) => hit.heading.id === current)?.heading;
  if (heading) title(heading.title);
}

function title(words) {
  $("title").textContent = words || t("untitled");
  document.title = words ? `${words} - nearfar` : "nearfar";
  $("actions").hidden = !current;
}

function side(open_) {
  document.body.classList.toggle("side", open_);
  $("open-sidebar").setAttribute("aria-expanded", String(open_));
}

function blank() {
  following?.abort();
  current = null;
  last = null;
  thread.show([]);
  title("");
  composer.setBusy(false);
  side(false);
  $("question").focus();
  act(refresh);
}

async function open(id) {
  following?.abort();
  const whole = await act(() => api.read(id));
  if (!whole) return;
  current = id;
  last = whole.turns.at(-1)?.finish?.usage ?? null;
  thread.show(whole.turns);
  title(whole.heading.title);
  side(false);
  await act(refresh);
  if (thread.writing) await follow(id);
  else composer.setBusy(false);
  hope(id);
}

/** Look for better answers to what waits for the cloud, as long as this conversation is open. */
async function hope(id) {
  clearTimeout(hoping);
  if (id !== current || composer.busy) return;
  const whole = await api.read(id).catch(() => null);
  if (!whole || id !== current || composer.busy) return;
  if (thread.better(whole.turns)) hoping = setTimeout(() => hope(id), BETTER_MS);
}

/** Ask a new question, or with null the last one again; `by` chooses a side. */
async function send(text, by = null) {
  if (composer.busy) return;
  composer.setBusy(true);
  const asked = await act(async () => {
    current ??= (await api.begin()).id;
    await api.ask(current, text ?? "", by);
    return true;
  });
  if (!asked) {
    composer.setBusy(false);
    if (text) composer.restore(text);
    return;
  }
  thread.begin(text);
  $("said").textContent = t("answering");
  act(refresh);
  await follow(current);
}

async function follow(id) {
  composer.setBusy(true);
  following = new AbortController();
  const { signal } = following;
  await act(async () => {
    for await (const event of api.follow(id, signal)) await take(id, event);
    // The stream may have ended before it could be read: then the answer is in the store.
    if (thread.writing) thread.show((await api.read(id)).turns);
  });
  if (signal.aborted) return;
  withdrawConsent();
  composer.setBusy(false);
  $("said").textContent = t("answered");
  await act(async () => {
    stand(await api.standing());
    await refresh();
  });
  hope(id);
}

async function take(id, event) {
  if (event.type === "consent") {
    askConsent(event.bytes).then((reply) => api.consent(id, reply).catch(() => null));
    return;
  }
  if (event.type === "finish") last = event.finish.usage;
  thread.take(event);
}

$("new").addEventListener("click", blank);
$("open-sidebar").addEventListener("click", () => side(true));
$("close-sidebar").addEventListener("click", () => side(false));
$("shade").addEventListener("click", () => side(false));
$("open-settings").addEventListener("click", () => standing && settings.open(standing));
$("search").addEventListener("input", () => act(refresh));

$("private").addEventListener("click", async () => {
  const now = await act(() => api.change({ private: $("private").getAttribute("aria-checked") !== "true" }));
  if (!now) return;
  stand(now);
  $("said").textContent = t(now.private ? "private_on" : "private_off");
});

$("rename").addEventListener("click", async () => {
  const name = await line(t("rename_title"), $("title").textContent);
  if (name) await act(() => api.rename(current, name).then(refresh));
});

$("delete").addEventListener("click", async () => {
  const sure = await choose(t("delete_sure"), [["delete", t("delete"), "danger"], ["", t("cancel"), ""]]);
  if (sure && (await act(() => api.remove(current)))) blank();
});

$("export").addEventListener("click", async () => {
  const form = await choose(t("export_title"), [["markdown", "Markdown", "strong"], ["json", "JSON", ""], ["", t("cancel"), ""]]);
  const blob = form && (await act(() => api.exported(current, form)));
  if (!blob) return;
  const anchor = document.createElement("a");
  anchor.href = URL.createObjectURL(blob);
  anchor.download = `${$("title").textContent.replace(/[^\p{L}\p{N}]+/gu, "-")}.${form === "json" ? "json" : "md"}`;
  anchor.click();
  URL.revokeObjectURL(anchor.href);
});

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && composer.busy && !document.querySelector("dialog[open]")) act(() => api.stop(current));
  else if (event.key === "Escape") side(false);
  else if (event.altKey && event.key.toLowerCase() === "n") blank();
  else if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "k") {
    side(true);
    $("search").focus();
  } else return;
  event.preventDefault();
});

async function start() {
  const now = await act(api.standing);
  if (!now) return;
  stand(now);
  await act(refresh);
}

async function keepShell() {
  if (!("serviceWorker" in navigator)) return;
  const policy = globalThis.trustedTypes?.createPolicy("nearfar", { createScriptURL: (path) => (path === "/worker.js" ? path : "") });
  await navigator.serviceWorker.register(policy?.createScriptURL("/worker.js") ?? "/worker.js");
}

words.apply();
api.keepToken();
blank();
await start();
await keepShell();
