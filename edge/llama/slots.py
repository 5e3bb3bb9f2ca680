"""Places for answers: who writes where, and whose text is already there."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

from edge.device.thread_tuner import ThreadTuner
from edge.llama.kv_cache import KvCache
from edge.llama.slot_conversation import SlotConversation

Owner = tuple[str, str]  # who asks (offload/asker.py), and the request's cache salt


@dataclass(kw_only=True)
class Slot:
    """One place: its cache, the conversation in it, and the pace of its steps.

    `writing()` counts an answer among those that a step waits for, where steps are shared. `owner`
    is for whom the text in its cache was read: nobody else's prompt is compared with it.
    """

    cache: KvCache
    conversation: SlotConversation
    pace: ThreadTuner
    writing: Callable[[], AbstractContextManager[None]] = nullcontext
    owner: Owner = ("", "")

    def hand_over(self, owner: Owner) -> None:
        """Let the seat be `owner`'s, and empty where it was another's."""
        if self.owner != owner:
            self.conversation.leave()
            self.cache.clear()
            self.owner = owner


class Slots:
    """Gives each answer the free seat that holds most of its text; waits while all are taken."""

    def __init__(self, seats: Sequence[Slot]) -> None:
        self.all = tuple(seats)
        self._free = list(seats)
        self._cond = threading.Condition()

    @contextmanager
    def take(
        self, session: str | None, prompt: Sequence[int], owner: Owner = ("", "")
    ) -> Iterator[Slot]:
        """Lend a seat."""
        with self._cond:
            self._cond.wait_for(lambda: bool(self._free))
            seat = max(self._free, key=lambda seat: self._worth(seat, session, prompt, owner))
            self._free.remove(seat)
        try:
            seat.hand_over(owner)
            yield seat
        finally:
            with self._cond:
                # The one used last is the last to be chosen among equals.
                self._free.append(seat)
                self._cond.notify()

    def forget(self, session: str) -> None:
        """Forget a conversation in every seat, as soon as nobody writes there."""
        for seat in self.all:
            with self._alone(seat):
                seat.conversation.forget(session)

    @contextmanager
    def _alone(self, seat: Slot) -> Iterator[None]:
        with self._cond:
            self._cond.wait_for(lambda: seat in self._free)
            yield

    @staticmethod
    def _worth(
        seat: Slot, session: str | None, prompt: Sequence[int], owner: Owner
    ) -> tuple[bool, int, bool]:
        mine = seat.owner == owner
        own = mine and session is not None and seat.conversation.session == session
        shared = seat.cache.window.shared(prompt) if mine else 0
        # Among seats with nothing to share, an empty one costs nobody their text.
        return own, shared, seat.cache.window.used == 0
