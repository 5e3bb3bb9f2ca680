"""The engine's thread, which alone touches the network, and the mailbox from it to event loops."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections import defaultdict
from collections.abc import Callable

from engine.torch.continuous_batching import Batching
from engine.torch.request_state import RequestState
from engine.torch.step_profile import StepProfile
from offload.command_queue import CommandQueue
from offload.messages import Delta, Finish

Item = Delta | Finish
Reader = tuple[asyncio.AbstractEventLoop, "asyncio.Queue[Item]"]

_log = logging.getLogger(__name__)

CLOSED = "the cloud engine was closed in mid-answer; ask again"
BROKEN = "the cloud engine broke down; restart it"


class EngineLoop:
    """Engine loop: runs a Batching until closed; its methods may be called from any thread."""

    def __init__(
        self,
        batching: Batching,
        deliver: Callable[[], None],
        step_profile: StepProfile | None = None,
    ) -> None:
        """Start the thread; it calls `deliver` after every step, for all posts of the step."""
        self._batching = batching
        self._profile = step_profile
        self._deliver = deliver
        self._orders = CommandQueue()
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

    def close(self, timeout_s: float | None = None) -> None:
        """End the thread after the present step; answers under way end with an error.

        A thread that has not ended after `timeout_s` is left behind.
        """
        self._orders.give(self._stop)
        self._thread.join(timeout_s)
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
        if self._profile is not None:
            self._profile.close()

    def _turn(self) -> None:
        if self.broken:
            self._orders.follow_next()
            self._batching.abort(BROKEN)
            return
        self._await_orders()
        if self._batching.num_unfinished and not self._closing:
            if self._profile is None:
                self._batching.step()
            else:
                self._profile.step(self._batching.step)

    def _await_orders(self) -> None:
        """Follow all orders; with nothing else to do, check the books and wait for one."""
        if not self._batching.num_unfinished and not self._orders.num_waiting:
            self._batching.check_integrity()
            self._orders.follow_next()
        self._orders.follow_waiting()


class EventMailbox:
    """Mailbox of a step: collects what it posts and delivers it at its end, one wake-up a step."""

    def __init__(self) -> None:
        self._posts: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Queue[Item], Item]]]
        self._posts = defaultdict(list)

    def post(self, reader: Reader, item: Item) -> None:
        """Keep an item for its reader; called in the engine's thread."""
        loop, queue = reader
        self._posts[loop].append((queue, item))

    def deliver(self) -> None:
        """Hand over everything kept; called in the engine's thread."""
        for loop, posts in self._posts.items():
            # The loop may be gone when the program is stopped in mid-answer.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_put_all, posts)
        self._posts = defaultdict(list)


def _put_all(posts: list[tuple[asyncio.Queue[Item], Item]]) -> None:
    for queue, item in posts:
        queue.put_nowait(item)
