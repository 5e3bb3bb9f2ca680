"""Command queue: what other threads ask of the one that owns a network, done in turn."""

from __future__ import annotations

from collections.abc import Callable
from queue import Empty, SimpleQueue

Order = Callable[[], None]


class CommandQueue:
    """Command queue: any thread gives, and one carries out."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[Order] = SimpleQueue()

    @property
    def num_waiting(self) -> int:
        """How many were not followed yet."""
        return self._queue.qsize()

    def give(self, order: Order) -> None:
        """Let an order be followed after those that were given before it."""
        self._queue.put(order)

    def follow_next(self) -> None:
        """Follow one order; wait for it where there is none."""
        self._queue.get()()

    def follow_waiting(self) -> None:
        """Follow all that have been given, and those that they give."""
        while True:
            try:
                order = self._queue.get_nowait()
            except Empty:
                return
            order()
