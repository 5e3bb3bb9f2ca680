"""The thread that owns the network: takes answers in, steps while there are any, sleeps else."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from cloud.engine.answer_state import RequestState
from cloud.engine.continuous_batching import Batching
from offload.command_queue import Orders

_log = logging.getLogger(__name__)

CLOSED = "the cloud engine was closed in mid-answer; ask again"
BROKEN = "the cloud engine broke down; restart it"


class EngineLoop:
    """Runs a Batching until closed; its methods may be called from any thread."""

    def __init__(self, batching: Batching, deliver: Callable[[], None]) -> None:
        """Start the thread; it calls `deliver` after every step, for all posts of the step."""
        self._batching = batching
        self._deliver = deliver
        self._orders = Orders()
        self._closing = False
        self.broken = False
        self._thread = threading.Thread(target=self._run, name="cloud-engine", daemon=True)
        self._thread.start()

    def add(self, answer: RequestState) -> None:
        """Let an answer take part from the next step on."""
        self._orders.give(lambda: self._batching.add(answer))

    def cancel(self, answer: RequestState) -> None:
        """Free an answer's place before the next step."""
        self._orders.give(lambda: self._batching.cancel(answer))

    def close(self, patience_s: float | None = None) -> None:
        """End the thread after the present step; answers under way end with an error.

        A thread that has not ended after `patience_s` is left behind.
        """
        self._orders.give(self._stop)
        self._thread.join(patience_s)
        self._orders.follow_waiting()
        self._batching.abort(CLOSED)
        self._deliver()

    def _stop(self) -> None:
        self._closing = True

    def _run(self) -> None:
        while not self._closing:
            try:
                self._turn()
            except Exception as error:
                # A broken invariant: no answer can be trusted any more, and no reader may hang.
                _log.critical("the engine loop broke down: %r", error)
                _log.debug("where it broke", exc_info=error)
                self.broken = True
                self._batching.abort(BROKEN)
            self._deliver()

    def _turn(self) -> None:
        if self.broken:
            self._orders.follow_next()
            self._batching.abort(BROKEN)
            return
        self._await_orders()
        if self._batching.num_unfinished and not self._closing:
            self._batching.step()

    def _await_orders(self) -> None:
        """Follow all orders; with nothing else to do, check the books and wait for one."""
        if not self._batching.num_unfinished and not self._orders.num_waiting:
            self._batching.check_integrity()
            self._orders.follow_next()
        self._orders.follow_waiting()
