"""Which conversation the context holds, and how it changes places with those on disk."""

from __future__ import annotations

from collections.abc import Sequence

from edge.llama.kv_cache import KvCache
from engine.sessions import SessionStore

WORTH_TOKENS = 32  # a shorter conversation is read again as quickly as it is loaded


class SlotConversation:
    """Saves the conversation being left and restores the one being entered.

    Without a store, or for requests without a session, nothing goes to disk.
    """

    def __init__(self, cache: KvCache, store: SessionStore | None) -> None:
        self._cache = cache
        self._store = store
        self.session: str | None = None

    def enter(self, session: str | None, prompt: Sequence[int]) -> None:
        """Make the context hold as much of a prompt's conversation as there is."""
        if session != self.session:
            self.leave()
            self.session = session
            if session is not None and self._store is not None:
                self._restore(self._store, session, prompt)

    def leave(self) -> None:
        """Save the conversation that the context holds, where it has a name and is worth it."""
        session, self.session = self.session, None
        if session is None or self._store is None or self._cache.window.used < WORTH_TOKENS:
            return
        self._store.save(session, self._cache.saved(self._store.model))

    def forget(self, session: str) -> None:
        """Forget a conversation: on disk, and here where the context holds it."""
        if self._store is not None:
            self._store.forget(session)
        if self.session == session:
            self.session = None
            self._cache.clear()

    def _restore(self, store: SessionStore, session: str, prompt: Sequence[int]) -> None:
        here = self._cache.window.shared(prompt)
        saved = store.load(session)
        if saved is not None and _shared(saved.header.stream, prompt) > here:
            self._cache.restore(saved)


def _shared(stream: Sequence[int], prompt: Sequence[int]) -> int:
    pairs = enumerate(zip(stream, prompt, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(stream), len(prompt)))
