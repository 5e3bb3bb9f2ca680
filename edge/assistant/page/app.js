// The page: which conversation is open, what is asked, and what to do when the server is gone.

import * as api from "./api.js";
import { Clouds } from "./clouds.js";
import { Composer } from "./composer.js";
import { Documents } from "./documents.js";
import { askConsent, withdrawConsent } from "./dialogs.js";
import { listen as listenToHeading } from "./heading.js";
import { listen as listenToList, show as showList } from "./list.js";
import { listen } from "./keys.js";
import { LearnQuestion } from "./learn.js";
import { Ledger } from "./ledger.js";
import { Models } from "./models.js";
import { encoded, shown } from "./pictures.js";
import * as place from "./place.js";
import { Settings } from "./settings.js";
import { draw as drawStatus } from "./status.js";
import { Thread } from "./thread.js";
import { askCall, withdrawCall } from "./tools.js";
import { listen as listenToTransfers } from "./transfers.js";
import * as theme from "./theme.js";
import * as words from "./words.js";

const { t } = words;
const $ = (id) => document.getElementById(id);
const RETRY_MS = 2000;
const BETTER_MS = 3000; // between two looks for a better answer, while one may come
const STANDING_MS = 5000; // between two looks at the link, while somebody looks at the page

let current = null; // the id of the open conversation; null before its first question
let status = null;
let following = null; // aborts the stream that is being read
let hoping = null; // the timer of the next look for a better answer
let last = null; // the last answer's usage

const thread = new Thread($("thread"), { retry: (side) => send(null, side), example: (text) => send(text), manage, picture: (number) => api.picture(current, number), edit, version, resume });
const composer = new Composer({ send, stop: () => current && act(() => api.stop(current)), take: (file) => documents.take(file), fail: notice });
const documents = new Documents($("documents"), (file) => act(() => api.upload(file)));
const settings = new Settings(stand, speak);
const ledger = new Ledger((id) => open(id));
const learning = new LearnQuestion(async (learn) => {
  const now = await act(() => api.change({ learn }));
  if (now) stand(now);
});
const models = new Models(async (model) => stand(await api.change({ model })));
const clouds = new Clouds(async () => stand(await api.status()));

/** Open one of the managers: of near models, or of far ones. */
function manage(which) {
  act(() => (which === "near" ? models : clouds).open());
}

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
  while (!(await api.status().catch(() => null))) await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
  returning = false;
  await start();
  const id = current ?? place.kept();
  if (id) await open(id);
}

function notice(words) {
  $("notice").textContent = words;
  $("notice").hidden = !words;
}

function stand(now) {
  status = now;
  thread.stand(now);
  $("private").setAttribute("aria-checked", String(now.private));
  composer.stand(now);
  learning.stand(now);
  composer.setBusy(composer.busy);
  drawStatus($("status"), now, last);
}

/** Speak another language: the server's sentences too. */
async function speak() {
  if (current && !composer.busy) await open(current);
  else if (!current) thread.show([]);
  await act(async () => stand(await api.status()));
  await act(refresh);
}

async function refresh() {
  const wanted = $("search").value;
  const hits = await api.conversations(wanted);
  showList($("list"), hits, { selected: current, searching: Boolean(wanted.trim()), open: found });
  const heading = hits.find((hit) => hit.heading.id === current)?.heading;
  if (heading) title(heading.title);
  $("pin").setAttribute("aria-pressed", String(Boolean(heading?.pinned)));
}

/** Open what a search found: the version that holds it. */
async function found({ heading, turn }) {
  const hidden = turn && !composer.busy && heading.id !== current;
  if (hidden) await act(() => api.version(heading.id, turn));
  await open(heading.id);
  thread.find(turn)?.scrollIntoView({ block: "start" });
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
  composer.leaveEdit();
  place.keep(null);
  clear();
  act(refresh);
}

function clear() {
  following?.abort();
  current = null;
  last = null;
  thread.show([]);
  documents.show([]);
  title("");
  composer.setBusy(false);
  side(false);
  $("question").focus();
  if (status) stand(status);
}

async function open(id) {
  following?.abort();
  if (current && id !== current) composer.leaveEdit();
  const whole = await act(() => api.read(id));
  if (!whole) return;
  current = id;
  last = whole.turns.at(-1)?.finish?.usage ?? null;
  place.keep(id);
  thread.show(whole.turns);
  documents.show(whole.documents);
  title(whole.heading.title);
  side(false);
  if (status) stand(status);
  await act(refresh);
  if (whole.running && !thread.writing) thread.goOn(); // it waits for a word on a call
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
  thread.meet(whole.turns);
  const { came, may } = thread.better(whole.turns);
  if (came) $("said").textContent = t("better");
  if (may) hoping = setTimeout(() => hope(id), BETTER_MS);
}

/** Ask a new question, or with null the last one again; `by` chooses a side, `stays` keeps it here.
 *  With `edits` it is asked in the place of that turn, which stays as another version. */
async function send(text, by = null, stays = false, edits = 0, pictures = []) {
  if (composer.busy) return;
  composer.setBusy(true);
  const asked = await act(async () => {
    current ??= (await api.begin()).id;
    await api.ask(current, text ?? "", by, stays, edits, documents.ids(), await Promise.all(pictures.map(encoded)));
    return true;
  });
  if (!asked) {
    composer.setBusy(false);
    if (text !== null) composer.restore(text, stays, edits, pictures);
    return;
  }
  place.keep(current);
  place.tell(current);
  // With documents the question has the passages that were found, too.
  if (text === null || edits || documents.ids().length) return again();
  thread.begin(text, pictures);
  $("said").textContent = t("answering");
  act(refresh);
  await follow(current);
}

/** Show the conversation as it is now, and follow what is being written there. */
async function again() {
  composer.setBusy(false);
  $("said").textContent = t("answering");
  await open(current);
}

/** Put a question into the box, to be asked in other words; until then nothing has changed. */
async function edit(turn) {
  if (composer.busy) return;
  const blobs = await act(() => Promise.all(turn.pictures.map(({ id }) => api.picture(current, id))));
  if (blobs) composer.edit(turn, blobs.map(shown));
}

/** Stop an answer, and put its question into the box: it is to be changed before anything leaves. */
async function changeInstead(id) {
  if (!(await act(() => api.stop(id)))) return;
  const whole = await act(() => api.read(id));
  const asked = whole?.turns.findLast((turn) => turn.role === "user");
  composer.setBusy(false);
  if (asked && id === current) edit(asked);
}

/** Show another version of a turn, and what followed it. */
async function version(turn) {
  if (composer.busy || !(await act(() => api.version(current, turn)))) return;
  place.tell(current);
  await open(current);
  thread.find(turn)?.querySelector(".versions button:not(:disabled)")?.focus();
}

/** Go on with an answer that was stopped. */
async function resume() {
  if (composer.busy || !(await act(() => api.resume(current)))) return;
  place.tell(current);
  await again();
}

async function follow(id) {
  composer.setBusy(true);
  following = new AbortController();
  const { signal } = following;
  await act(async () => {
    for await (const event of api.follow(id, signal)) await take(id, event);
    // The stream may have ended before it could be read: then the answer is in the store.
    if (thread.writing || thread.hasCalled) thread.show((await api.read(id)).turns);
  });
  if (signal.aborted) return;
  withdrawConsent();
  withdrawCall();
  composer.setBusy(false);
  $("said").textContent = t("answered");
  await act(async () => {
    stand(await api.status());
    await refresh();
  });
  hope(id);
}

async function take(id, event) {
  if (event.type === "consent") {
    const reply = askConsent(event);
    reply.then((said) => (said === "edit" ? changeInstead(id) : said && api.consent(id, said).catch(() => null)));
    return;
  }
  if (event.type === "call") {
    askCall(event).then((said) => api.replyCall(id, said || "no").catch(() => null));
    return;
  }
  if (event.type === "call_answered") withdrawCall();
  if (event.type === "consented") withdrawConsent(); // answered in another tab
  if (event.type === "finish") {
    last = event.finish.usage;
    learning.saw(event.finish);
  }
  thread.take(event);
}

$("new").addEventListener("click", blank);
$("open-sidebar").addEventListener("click", () => side(true));
$("close-sidebar").addEventListener("click", () => side(false));
$("shade").addEventListener("click", () => side(false));
$("open-settings").addEventListener("click", () => status && settings.open(status));
$("open-ledger").addEventListener("click", () => act(() => ledger.open()));
$("open-models").addEventListener("click", () => act(() => models.open()));
$("open-clouds").addEventListener("click", () => act(() => clouds.open()));
$("search").addEventListener("input", () => act(refresh));
$("latest").addEventListener("click", () => thread.toEnd(true));

$("private").addEventListener("click", async () => {
  const now = await act(() => api.change({ private: $("private").getAttribute("aria-checked") !== "true" }));
  if (!now) return;
  stand(now);
  place.tell(null);
  $("said").textContent = t(now.private ? "private_on" : "private_off");
});

listenToHeading({ act, current: () => current, refresh, open, blank });
listenToList($("list"), $("search"));
listenToTransfers(refresh);
listen({
  isBusy: () => composer.busy,
  stop: () => act(() => api.stop(current)),
  close: () => composer.leaveEdit() || side(false),
  blank,
  search: () => side(true),
});

/** Show what another tab, or the back button, has changed. */
async function meet(id) {
  await act(async () => {
    stand(await api.status());
    await refresh();
  });
  if (id !== current || !current || composer.busy) return;
  const whole = await api.read(current).catch(() => null);
  if (whole) await open(current);
  else blank(); // deleted there
}

async function start() {
  const now = await act(api.status);
  if (!now) return;
  stand(now);
  await act(refresh);
}

/** Look at the link now and then, and notice when the server is gone. */
async function watch() {
  if (!document.hidden && !composer.busy && !returning && status) {
    const now = await api.status().catch((error) => error);
    if (now instanceof api.Refused && now.status === 0) await act(() => Promise.reject(now));
    else if (!(now instanceof Error) && !composer.busy) stand(now);
  }
  setTimeout(watch, STANDING_MS);
}

async function keepShell() {
  if (!("serviceWorker" in navigator)) return;
  const policy = globalThis.trustedTypes?.createPolicy("nearfar", { createScriptURL: (path) => (path === "/worker.js" ? path : "") });
  await navigator.serviceWorker.register(policy?.createScriptURL("/worker.js") ?? "/worker.js");
}

words.apply();
theme.apply();
api.keepToken();
clear();
await start();
if (place.kept() && status) await open(place.kept());
place.listen({ meet, go: (id) => (id ? open(id) : blank()) });
setTimeout(watch, STANDING_MS);
await keepShell();
