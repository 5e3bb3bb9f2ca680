"""The slots of an engine: who gets which, and which conversations are on disk."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch

from edge.small_gpu.sequence import RingTask
from edge.small_gpu.slot import RingSlot
from edge.small_gpu.slot_state import restore, saved
from engine.sessions import SessionStore

_log = logging.getLogger("nearfar.small_gpu")

WORTH_TOKENS = 32  # a shorter conversation is read again as quickly as it is loaded


class RingSlots:
    """One slot, and up to `count` where more are needed; lives in the engine's thread.

    Without a store, or for requests without a session, nothing goes to disk.
    """

    def __init__(
        self, make: Callable[[], RingSlot], count: int, store: SessionStore | None
    ) -> None:
        self._make = make
        self._count = count
        self._store = store
        self._free = [make()]  # the one used last is the last
        self._taken: list[RingSlot] = []
        self._forgotten: set[str] = set()  # conversations to be forgotten when their answer ends

    def take(self, task: RingTask) -> RingSlot | None:
        """Return the slot that holds most of a task's text, None while all are taken."""
        if not any(any(self._worth(slot, task)) for slot in self._free):
            self._add()
        if not self._free:
            return None
        slot = max(self._free, key=lambda slot: self._worth(slot, task))
        self._free.remove(slot)
        self._taken.append(slot)
        self._enter(slot, task)
        return slot

    def give_back(self, slot: RingSlot) -> None:
        """Let others have a slot; what was read stays there."""
        slot.ring.settle()  # it may have been left in the middle of a chunk
        self._taken.remove(slot)
        self._free.append(slot)
        if slot.session in self._forgotten and slot.session is not None:
            self._forget_in(slot)

    def forget(self, session: str) -> None:
        """Forget a conversation, on disk too; one that is being answered, when that ends."""
        if self._store is not None:
            self._store.forget(session)
        for slot in self._free:
            if slot.session == session:
                self._forget_in(slot)
        if any(slot.session == session for slot in self._taken):
            self._forgotten.add(session)

    def leave_all(self) -> None:
        """Keep every conversation that has a name."""
        for slot in self._free:
            self._leave(slot)

    def check_integrity(self) -> None:
        """Assert that with nothing to do every slot is free and its books are in order."""
        assert not self._taken, "a slot was not given back"
        for slot in self._free:
            assert slot.ring.num_read == len(slot.stream), "ring and stream disagree"
            assert slot.ring.used <= slot.ring.limit, "a ring holds more than it may"

    def _add(self) -> None:
        """Make another slot, as long as there may be more and the memory holds it."""
        num_slots = len(self._free) + len(self._taken)
        if num_slots >= self._count:
            return
        try:
            self._free.insert(0, self._make())
        except (torch.OutOfMemoryError, MemoryError):
            self._count = num_slots
            _log.warning("no memory for more than %d answers at once", num_slots)

    def _worth(self, slot: RingSlot, task: RingTask) -> tuple[bool, int, bool]:
        own = task.session is not None and slot.session == task.session
        shared = slot.shared(task.prompt) if slot.owner == task.owner else 0
        # Among slots with nothing to share, an empty one costs nobody their text.
        return own, shared, not slot.stream

    def _enter(self, slot: RingSlot, task: RingTask) -> None:
        """Make a slot hold as much of a task's conversation as there is."""
        if slot.session != task.session:
            self._leave(slot)
            slot.session = task.session
        if slot.owner != task.owner:
            slot.clear()
            slot.owner = task.owner
        if task.session is None or self._store is None:
            return
        here = slot.shared(task.prompt)
        if here >= len(task.prompt) - 1:
            return
        found = self._store.load(task.session)
        if found is not None and _shared(found.header.stream, task.prompt) > here:
            restore(slot, found)

    def _leave(self, slot: RingSlot) -> None:
        session, slot.session = slot.session, None
        if session is not None and self._store is not None and slot.ring.used >= WORTH_TOKENS:
            self._store.save(session, saved(slot, self._store.model))

    def _forget_in(self, slot: RingSlot) -> None:
        self._forgotten.discard(str(slot.session))
        slot.session = None
        slot.clear()


def _shared(stream: Sequence[int], prompt: Sequence[int]) -> int:
    pairs = enumerate(zip(stream, prompt, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(stream), len(prompt)))
