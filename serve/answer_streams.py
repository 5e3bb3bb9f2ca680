"""Answer streams of one HTTP request: run side by side and read in one place."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from contextlib import aclosing
from types import TracebackType

import msgspec

from offload.engine import AnswerStream
from offload.errors import CloudFailed, EngineStopped
from offload.hybrid.handover import accepted
from offload.messages import Delta, Finish, Request, Side
from serve.admission import Account
from serve.http_errors import EngineBroke, TooLate
from serve.metrics import AnswerTimer, Metrics

Item = Delta | Finish
STOPPING = "nearfar.stopping"  # in an ASGI scope: the event that ends answers under way

Start = Callable[[Request], AnswerStream]

_BROKEN_OFF = "the far model failed in the middle of its answer; ask again"
_MOST_HELD = 64  # characters of a far answer, such as a long address, that wait for a word's end
_NUM_AHEAD = 64  # items that an engine may be ahead of a slow reader
_GRACE_S = 2.0  # an engine that keeps the deadline itself ends its answer better than we can


async def settled(stream: AnswerStream, *, may_replace: bool) -> AnswerStream:
    """Yield only what a reader may keep; text that may be withdrawn waits until it may not.

    With `may_replace` that is the near side's text until it is accepted (Delta.accepted) or ends,
    and the far side's last word: where the far side dies, the near one goes on behind a whole one.
    A near answer that cuts off its own end stands as it was passed on: a stream has no word for
    that. Raises CloudFailed where other text that was passed on is withdrawn after all.
    """
    text = _PassedText(holds=may_replace)
    async with aclosing(stream) as items:
        async for item in items:
            for each in text.take(item):
                yield each


class _PassedText:
    """What a reader has of one answer, and the pieces that wait behind it."""

    def __init__(self, *, holds: bool) -> None:
        self._holds = holds
        self._held: list[Delta] = []
        self._passed = ""
        self._has_passed = False  # tokens without a text count, too
        self._writer: Side | None = None  # of what was passed on last

    def take(self, item: Delta | Finish) -> list[Item]:
        """Take the next item; return what may be passed on by now."""
        if isinstance(item, Finish):
            return [*self._pass(len(self._held)), item]
        if item.replaces:
            return self._replace(item)
        self._held.append(item)
        return [*self._pass(self._num_free(item))]

    def _num_free(self, last: Delta) -> int:
        """Return how many of the pieces that wait are no longer in doubt."""
        is_near = last.source != "cloud"
        if not self._holds or (is_near and self._has_passed and self._writer == "cloud"):
            return len(self._held)  # behind a far text, the near one has the last word
        if is_near:
            return self._num_accepted((last.accepted or 0) - len(self._passed))
        whole = len(accepted("".join(each.text for each in self._held)))
        waiting = sum(len(each.text) for each in self._held)
        for number, each in reversed(list(enumerate(self._held, 1))):
            if waiting <= whole or waiting > whole + _MOST_HELD:
                return number
            waiting -= len(each.text)
        return 0

    def _num_accepted(self, num_chars: int) -> int:
        ends = itertools.accumulate(len(each.text) for each in self._held)
        return sum(1 for _ in itertools.takewhile(lambda end: end <= num_chars, ends))

    def _pass(self, count: int) -> list[Delta]:
        free, self._held = self._held[:count], self._held[count:]
        self._passed += "".join(each.text for each in free)
        for each in free:
            self._has_passed = self._has_passed or bool(each.text or each.token_ids)
            self._writer = each.source or self._writer
        return free

    def _replace(self, item: Delta) -> list[Item]:
        cuts_own_end = item.source == "edge" and self._writer != "cloud"
        if self._has_passed and cuts_own_end and self._passed.startswith(item.text):
            self._held = []
            return []
        if self._has_passed and not item.text.startswith(self._passed):
            raise CloudFailed(_BROKEN_OFF)
        rest = item.text[len(self._passed) :]
        self._held = [msgspec.structs.replace(item, text=rest, replaces=False)]
        return [*self._pass(self._num_free(item))]


class AnswerStreams:
    """Answer streams, one per request, run while the block is entered; leaving it closes them."""

    def __init__(
        self,
        start: Start,
        requests: Sequence[Request],
        *,
        metrics: Metrics,
        timeout_s: float,
        accounts: Sequence[Account] = (),
        stopping: asyncio.Event | None = None,
    ) -> None:
        self._start = start
        self._requests = requests
        self._metrics = metrics
        self._timeout_s = timeout_s
        self._accounts = accounts
        self._stopping = stopping or asyncio.Event()
        self._left = len(requests)
        self.queue: asyncio.Queue[tuple[int, Item | Exception]] = asyncio.Queue(_NUM_AHEAD)

    async def __aenter__(self) -> AnswerStreams:
        self._until_s = asyncio.get_running_loop().time() + self._timeout_s + _GRACE_S
        self._tasks = [
            asyncio.create_task(self._run(index, request))
            for index, request in enumerate(self._requests)
        ]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def next(self) -> tuple[int, Item] | None:
        """Return the next item of any answer and the answer's number, or None after the last.

        Raises what an engine raised, EngineBroke for an answer that failed, TooLate, and
        EngineStopped once the server stops.
        """
        if not self._left:
            return None
        index, item = await self._take()
        if isinstance(item, Exception):
            raise item
        if isinstance(item, Finish):
            self._check(item)
            self._left -= 1
        return index, item

    async def _take(self) -> tuple[int, Item | Exception]:
        if self._stopping.is_set():
            raise _stopped()
        if not self.queue.empty():
            return self.queue.get_nowait()
        left_s = self._until_s - asyncio.get_running_loop().time()
        # Not wait_for: before Python 3.12 it forgets a cancellation that meets an item.
        getting = asyncio.ensure_future(self.queue.get())
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait(
                (getting, stopping),
                timeout=max(0.0, left_s),
                return_when=asyncio.FIRST_COMPLETED,
            )
            if getting.done():
                return getting.result()
            raise _stopped() if stopping.done() else TooLate(self._timeout_s)
        finally:
            getting.cancel()
            stopping.cancel()

    def _check(self, finish: Finish) -> None:
        if finish.reason == "deadline":
            raise TooLate(self._timeout_s)
        if finish.reason in ("error", "cancelled"):
            raise EngineBroke(finish.error or "the engine stopped in mid-answer; ask again")

    async def _run(self, index: int, request: Request) -> None:
        try:
            with AnswerTimer(self._metrics) as meter:
                await self._read(index, request, meter)
        except Exception as error:
            for account in self._accounts[index : index + 1]:
                account.close(failed=True)
            await self.queue.put((index, error))

    async def _read(self, index: int, request: Request, meter: AnswerTimer) -> None:
        ended = False
        async with aclosing(self._start(request)) as items:
            async for item in items:
                meter.see(item)
                for account in self._accounts[index : index + 1]:
                    account.see(item)
                ended = isinstance(item, Finish)
                await self.queue.put((index, item))
        if not ended:
            raise EngineBroke("the engine ended its answer without saying so; ask again")


def _stopped() -> EngineStopped:
    return EngineStopped("the server is being stopped; ask again in a moment")
