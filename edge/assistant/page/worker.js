// The service worker: keeps the page itself, so that it opens while its server is stopped.
// Conversations are never cached: what is deleted must be gone.

const SHELL = "shell-7";
const FILES = [
  "answer_foot", "api", "app", "attached", "clouds", "composer", "dialogs", "documents", "heading", "highlight", "keys", "learn", "ledger", "list", "markdown", "models", "pictures", "place", "settings", "presets", "status", "theme", "thread",
  "tools", "transfers", "turn_parts", "welcome", "words", "words_models",
];
const PATHS = [
  "/",
  "/page/style.css",
  "/page/icon.svg",
  "/page/manifest.webmanifest",
  ...FILES.map((name) => `/page/${name}.js`),
];

self.addEventListener("install", (event) => {
  event.waitUntil(
    caches.open(SHELL).then((cache) => cache.addAll(PATHS)).then(() => self.skipWaiting()),
  );
});

self.addEventListener("activate", (event) => {
  event.waitUntil(
    caches
      .keys()
      .then((names) => Promise.all(names.filter((name) => name !== SHELL).map((name) => caches.delete(name))))
      .then(() => self.clients.claim()),
  );
});

self.addEventListener("fetch", (event) => {
  const path = new URL(event.request.url).pathname;
  if (event.request.method === "GET" && PATHS.includes(path)) event.respondWith(fresh(event.request, path));
});

/** The server's own file where it answers, so that an update shows at once; else the kept one. */
async function fresh(request, path) {
  const cache = await caches.open(SHELL);
  try {
    const answer = await fetch(request);
    if (answer.ok) await cache.put(path, answer.clone());
    return answer;
  } catch {
    return (await cache.match(path)) ?? Response.error();
  }
}
