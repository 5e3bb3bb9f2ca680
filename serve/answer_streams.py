"""Answer streams of one HTTP request: run side by side and read in one place."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import aclosing
from types import TracebackType

from offload.engine import AnswerStream
from offload.errors import EngineStopped
from offload.messages import Delta, Finish, Request
from serve.admission import Account
from serve.http_errors import EngineBroke, TooLate
from serve.metrics import AnswerTimer, Metrics

Item = Delta | Finish
STOPPING = "nearfar.stopping"  # in an ASGI scope: the event that ends answers under way

Start = Callable[[Request], AnswerStream]

_NUM_AHEAD = 64  # items that an engine may be ahead of a slow reader
_GRACE_S = 2.0  # an engine that keeps the deadline itself ends its answer better than we can


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
