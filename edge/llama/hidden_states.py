"""What the network held in mind when it chose each token, for whoever watches an answer.

The hidden state is the last layer's output behind the final norm: what the output matrix turns
into logits. It never crosses a wire, costs nothing while nobody watches, and takes no more than a
copy of a row per token where somebody does: llama.cpp is asked for it between steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from offload.engine import StateObserver


class Watchers:
    """Who watches which answer, by the id of its request."""

    def __init__(self) -> None:
        self._observers: dict[str, StateObserver] = {}

    @contextmanager
    def watch(self, request_id: str, observer: StateObserver) -> Iterator[None]:
        """Show an answer's hidden states to `observer` while the block lasts."""
        self._observers[request_id] = observer
        try:
            yield
        finally:
            del self._observers[request_id]

    def of(self, request_id: str) -> StateObserver | None:
        """Return who watches an answer, if anybody does."""
        return self._observers.get(request_id)
