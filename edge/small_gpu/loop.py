"""Engine loop: the thread that owns the network, takes answers in, steps, and waits for more."""

from __future__ import annotations

import logging
import threading

from edge.small_gpu.batch import Batch
from edge.small_gpu.sequence import RingSequence
from edge.small_gpu.slots import RingSlots
from offload.command_queue import CommandQueue
from offload.errors import EngineStopped

_log = logging.getLogger("nearfar.small_gpu")

CLOSED = "this engine is closed; load the model again"
BROKEN = "the near engine broke down; start it again"


class RingLoop:
    """Ring loop: runs a Batch until stopped; its methods may be called from any thread."""

    def __init__(self, batch: Batch, slots: RingSlots) -> None:
        self._batch = batch
        self.slots = slots
        self.commands = CommandQueue()
        self._closing = False
        self._broken = False
        self._lock, self._ended = threading.Lock(), False  # after the end, no order is taken
        self.thread = threading.Thread(target=self._run, name="nearfar-edge", daemon=True)
        self.thread.start()

    def add(self, sequence: RingSequence) -> None:
        """Let an answer take part from the next step on; it fails where there is none."""
        with self._lock:
            if not self._ended:
                self.commands.give(lambda: self._batch.add(sequence))
                return
        sequence.fail(EngineStopped(CLOSED))

    def forget(self, session: str) -> None:
        """Forget a conversation; one that is being answered, when that ends."""
        done = threading.Event()
        with self._lock:
            if self._ended:
                return
            self.commands.give(lambda: self._forget(session, done))
        done.wait()

    def stop(self) -> None:
        """End the thread after the answers under way; those that still wait fail."""
        self.commands.give(self._close)

    def join(self) -> None:
        """Wait for the thread's end."""
        self.thread.join()

    def _close(self) -> None:
        self._closing = True

    def _forget(self, session: str, done: threading.Event) -> None:
        try:
            self.slots.forget(session)
        finally:
            done.set()

    def _run(self) -> None:
        while not (self._closing and not self._batch.num_unfinished):
            try:
                self._turn()
            except Exception as error:
                # A broken invariant: no answer can be trusted any more, and no reader may hang.
                _log.critical("the engine loop broke down: %r", error, exc_info=error)
                self._broken = True
                self._batch.abandon(EngineStopped(BROKEN))
        if not self._broken:
            self.slots.leave_all()
        with self._lock:
            self._ended = True
        self.commands.follow_waiting()
        self._batch.abandon(EngineStopped(CLOSED))

    def _turn(self) -> None:
        self._await_orders()
        if self._broken:
            self._batch.abandon(EngineStopped(BROKEN))
            return
        if self._closing:
            self._batch.refuse_waiting(EngineStopped(CLOSED))
        self._batch.step()

    def _await_orders(self) -> None:
        """Follow all orders; with nothing else to do, check the books and wait for one."""
        if not self._batch.num_unfinished and not self.commands.num_waiting and not self._closing:
            if not self._broken:
                self.slots.check_integrity()
            self.commands.follow_next()
        self.commands.follow_waiting()
