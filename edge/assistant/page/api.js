// Talks to the server: JSON with the token of this origin, and answers as they are written.

import { current as language } from "./words.js";

const KEY = "nearfar-token";

/** An error whose message is written for the person at the page. */
export class Refused extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

/** Take the token out of the address, so that it is neither seen, shared nor kept in the history. */
export function keepToken() {
  const said = new URLSearchParams(location.hash.slice(1));
  if (!said.get("token")) return;
  localStorage.setItem(KEY, said.get("token"));
  said.delete("token");
  history.replaceState(null, "", `${location.pathname}${said.size ? `#${said}` : ""}`);
}

async function call(path, { method = "GET", body, blob, signal } = {}) {
  // The server's sentences come in the page's language, which need not be the browser's.
  const headers = { authorization: `Bearer ${localStorage.getItem(KEY) ?? ""}`, "accept-language": language() };
  if (body !== undefined) headers["content-type"] = "application/json";
  let answer;
  try {
    answer = await fetch(`/api/${path}`, {
      method,
      headers,
      signal,
      body: blob ?? (body === undefined ? undefined : JSON.stringify(body)),
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused("", 0);
  }
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => ({}));
  throw new Refused(told.error ?? answer.statusText, answer.status);
}

const json = async (...asked) => (await call(...asked)).json();
const at = (id) => `conversations/${encodeURIComponent(id)}`;

const post = (path, body = {}) => json(path, { method: "POST", body });

export const status = () => json("status");
export const change = (settings) => json("settings", { method: "PATCH", body: settings });
export const conversations = (wanted = "") => json(`conversations?q=${encodeURIComponent(wanted)}`);
export const ledger = (words, kind) => json(`ledger?q=${encodeURIComponent(words)}&kind=${encodeURIComponent(kind)}`);
export const begin = () => json("conversations", { method: "POST", body: {} });
export const read = (id) => json(at(id));
export const rename = (id, title) => json(at(id), { method: "PATCH", body: { title } });
export const pin = (id, pinned) => json(at(id), { method: "PATCH", body: { pinned } });
export const presets = () => json("presets");
export const keepPreset = (name, preset) => json(`presets/${encodeURIComponent(name)}`, { method: "PUT", body: preset });
export const removePreset = (name) => json(`presets/${encodeURIComponent(name)}`, { method: "DELETE" });
export const remove = (id) => json(at(id), { method: "DELETE" });
export const ask = (id, text, side = null, stays = false, edits = 0, documents = [], pictures = []) =>
  post(`${at(id)}/ask`, { text, side, private: stays, edits, documents, pictures });
export const picture = async (id, number) => (await call(`${at(id)}/pictures/${number}`)).blob();
export const upload = (file) => json(`documents?name=${encodeURIComponent(file.name)}`, { method: "POST", blob: file });
export const replyCall = (id, reply) => post(`${at(id)}/call`, { reply });
export const resume = (id) => post(`${at(id)}/ask`, { resume: true });
export const version = (id, turn) => post(`${at(id)}/version`, { turn });
export const restore = (id) => post(`${at(id)}/restore`);
export const stop = (id) => json(`${at(id)}/stop`, { method: "POST", body: {} });
export const consent = (id, reply) => json(`${at(id)}/consent`, { method: "POST", body: { reply } });
export const exported = async (id, form) => (await call(`${at(id)}/export?form=${form}`)).blob();

export const imported = (file) => json("import", { method: "POST", blob: file });
export const exportedAll = async () => (await call("export")).blob();
export const models = () => json("models");
export const searchHub = (words) => json(`models/search?q=${encodeURIComponent(words)}`);
export const hubFiles = (repo) => json(`models/files?repo=${encodeURIComponent(repo)}`);
export const adopt = (path, name) => post("models/adopt", { path, name });
export const removeModel = (name) => post("models/remove", { name });
export const pulls = () => json("pulls");
export const pull = (name, anyway) => post("pulls", { name, anyway });
export const stopPull = (name) => post("pulls/stop", { name });
export const clouds = () => json("clouds");
export const addCloud = (said) => post("clouds", said);
export const dropCloud = (url) => post("clouds/drop", { url });
export const testClouds = () => post("clouds/test");

function lost(error) {
  if (error.name === "AbortError") throw error;
  throw new Refused("", 0); // the server went away in the middle of a sentence
}

/** Yield the events of an answer under way; nothing where there is none. */
export async function* follow(id, signal) {
  const answer = await call(`${at(id)}/stream`, { signal });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read().catch(lost);
    if (done) return;
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) yield JSON.parse(event.slice("data: ".length));
  }
}
