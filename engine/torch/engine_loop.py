"""The engine's thread, which alone touches the network, and the mailbox from it to event loops."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from engine.torch.continuous_batching import Batching
from engine.torch.request_state import Item, RequestState
from engine.torch.step_profile import StepProfile
from offload.command_queue import CommandQueue
from offload.errors import EngineStopped

Reader = tuple[asyncio.AbstractEventLoop, "asyncio.Queue[Item]"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LoopOptions:
    """Options of an engine's loop: its thread's name, and what readers are told at its end."""

    name: str
    closed: str
    broken: str
    finishes: bool = False  # whether answers under way are written to their end when it is closed


FAR_LOOP = LoopOptions(
    name="cloud-engine",
    closed="the cloud engine was closed in mid-answer; ask again",
    broken="the cloud engine broke down; restart it",
)


class EngineLoop:
    """Engine loop: runs a Batching until closed; its methods may be called from any thread."""

    def __init__(
        self,
        batching: Batching,
        deliver: Callable[[], None],
        options: LoopOptions = FAR_LOOP,
        *,
        step_profile: StepProfile | None = None,
        at_end: Callable[[], None] = lambda: None,
    ) -> None:
        """Start the thread; it calls `deliver` after every step, for all posts of the step.

        `at_end` is called in the thread when it ends, but not where it broke down.
        """
        self.batching = batching
        self._deliver = deliver
        self._options = options
        self._profile = step_profile
        self._at_end = at_end
        self.orders = CommandQueue()
        self._closing = False
        self.broken = False
        self._lock, self._ended = threading.Lock(), False  # after the end, no order is taken
        self.thread = threading.Thread(target=self._run, name=options.name, daemon=True)
        self.thread.start()

    def add(self, answer: RequestState) -> None:
        """Let an answer take part from the next step on; it fails where there is none."""
        if not self._give(lambda: self.batching.add(answer)):
            answer.end("error", EngineStopped(self._options.closed))
            self._deliver()

    def cancel(self, answer: RequestState) -> None:
        """Free an answer's place before the next step."""
        self._give(lambda: self.batching.cancel(answer))

    def call(self, work: Callable[[], None]) -> None:
        """Do something in the thread, between two steps, and wait for it; nothing after its end."""
        done = threading.Event()

        def order() -> None:
            try:
                work()
            finally:
                done.set()

        if self._give(order):
            done.wait()

    def stop(self) -> None:
        """Let the thread end, and return at once."""
        self.orders.give(self._stop)

    def close(self, timeout_s: float | None = None) -> None:
        """End the thread after the present step; answers under way end with an error.

        Or, where the loop `finishes`, after them. A thread that has not ended after `timeout_s` is
        left behind.
        """
        self.stop()
        self.thread.join(timeout_s)
        if self.thread.is_alive():
            self._end()

    def _give(self, order: Callable[[], None]) -> bool:
        with self._lock:
            if not self._ended:
                self.orders.give(order)
            return not self._ended

    def _stop(self) -> None:
        self._closing = True

    def _run(self) -> None:
        while not (self._closing and not (self._options.finishes and self.batching.num_unfinished)):
            try:
                self._turn()
            except Exception as error:
                # A broken invariant: no answer can be trusted any more, and no reader may hang.
                _log.critical("the engine loop broke down: %r", error)
                _log.debug("where it broke", exc_info=error)
                self.broken = True
                self.batching.abort(EngineStopped(self._options.broken))
            self._deliver()
        if self._profile is not None:
            self._profile.close()
        if not self.broken:
            self._at_end()
        self._end()

    def _end(self) -> None:
        with self._lock:
            self._ended = True
        self.orders.follow_waiting()
        self.batching.abort(EngineStopped(self._options.closed))
        self._deliver()

    def _turn(self) -> None:
        if self.broken:
            self.orders.follow_next()
            self.batching.abort(EngineStopped(self._options.broken))
            return
        self._await_orders()
        if self._closing:
            self.batching.refuse_waiting(EngineStopped(self._options.closed))
        if self.batching.num_unfinished and (self._options.finishes or not self._closing):
            if self._profile is None:
                self.batching.step()
            else:
                self._profile.step(self.batching.step)

    def _await_orders(self) -> None:
        """Follow all orders; with nothing else to do, check the books and wait for one."""
        if not self.batching.num_unfinished and not self.orders.num_waiting and not self._closing:
            self.batching.check_integrity()
            self.orders.follow_next()
        self.orders.follow_waiting()


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
