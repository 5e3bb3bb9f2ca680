// Where the page is: the open conversation in its address, and a word between tabs when one changes.

const tabs = new BroadcastChannel("nearfar");
const NAME = "c";

/** Return the conversation that the address names, or null. */
export const kept = () => new URLSearchParams(location.hash.slice(1)).get(NAME);

/** Put the open conversation into the address, so that a reload and the back button find it. */
export function keep(id) {
  if (id === kept()) return;
  history.pushState(null, "", id ? `#${NAME}=${id}` : location.pathname);
}

/** Tell the other tabs that a conversation, or with null the list or the settings, has changed. */
export const tell = (id) => tabs.postMessage(id);

/** Call `meet` for what another tab has changed, and `go` where the back button leads. */
export function listen({ meet, go }) {
  tabs.addEventListener("message", ({ data }) => meet(data));
  addEventListener("popstate", () => go(kept()));
  // The chat at the terminal writes the same conversations.
  addEventListener("focus", () => meet(null));
}
