"""The two ends of one answer in flight: what the cloud is producing, what the device is reading."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import cast

from backbone.errors import NearfarError
from offload.engine import Engine
from offload.errors import CloudFailed
from offload.link import wire
from offload.link.failures import to_error, to_failure
from offload.link.wire import Deltas, Envelope, Failure, WireError
from offload.messages import Delta, Finish, Request, Usage


class Answer:
    """Serves one request: runs the engine and sends what it says, until the end or a stop."""

    def __init__(
        self,
        engine: Engine,
        request: Request,
        *,
        send: Callable[[wire.AnyBody], Awaitable[None]],
        on_done: Callable[[Answer], None],
    ) -> None:
        self._engine = engine
        self._request = request
        self._send = send
        self._num_deltas = 0
        self._num_tokens = 0
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(lambda _: on_done(self))

    def stop(self) -> None:
        """Close the engine's iterator; nothing more is sent."""
        self._task.cancel()

    async def stopped(self) -> None:
        """Wait until the engine has let go of the request."""
        await asyncio.wait({self._task})

    async def _run(self) -> None:
        work = asyncio.create_task(self._serve())
        try:
            # The deadline counts from here, and must not wait for an engine slow to stop.
            done, _ = await asyncio.wait({work}, timeout=self._request.deadline_s)
            if not done:
                usage = Usage(completion_tokens=self._num_tokens)
                await self._send(Finish(reason="deadline", usage=usage))
        finally:
            work.cancel()
            await asyncio.wait({work})

    async def _serve(self) -> None:
        try:
            if not await self._relay():
                await self._send(
                    to_failure(CloudFailed("the cloud's engine stopped in mid-answer"))
                )
        except Exception as error:
            await self._send(to_failure(error))

    async def _relay(self) -> bool:
        """Send all that the engine says and return whether it came to an end."""
        items = cast("AsyncGenerator[Delta | Finish, None]", self._engine.generate(self._request))
        async with contextlib.aclosing(items):
            async for item in items:
                if isinstance(item, Finish):
                    await self._send(item)
                    return True
                self._num_tokens += len(item.token_ids)
                await self._send(Deltas(self._num_deltas, (wire.pack_delta(item),)))
                self._num_deltas += 1
        return False


class Reading:
    """The device's end: takes what arrives for one request and hands it out in order."""

    def __init__(self, request_id: str) -> None:
        self.id = request_id
        self.bytes_sent = self.bytes_received = 0
        self.answered = False  # the cloud is done with the request
        self._ended = False
        self._num_deltas = 0
        self._items: asyncio.Queue[Delta | Finish | NearfarError] = asyncio.Queue()
        self._timer: asyncio.TimerHandle | None = None

    def take(self, envelope: Envelope) -> None:
        """Take one message; a damaged one, or a gap before it, fails the request."""
        self.bytes_received += envelope.size_bytes
        try:
            self._take(wire.open_body(envelope))
        except WireError as error:
            self.fail(CloudFailed(f"the cloud's answer is damaged ({error}); ask again"))

    def fail(self, error: NearfarError) -> None:
        """End the answer with an error, unless it has ended."""
        self._end(error)

    def expire_after(self, seconds: float) -> None:
        """End the answer then, should the cloud not have kept the deadline."""
        finish = Finish(reason="deadline")
        self._timer = asyncio.get_running_loop().call_later(seconds, self._end, finish)

    def close(self) -> None:
        """Take nothing more."""
        self._ended = True
        if self._timer is not None:
            self._timer.cancel()

    async def next(self) -> Delta | Finish:
        """Return the next item. Raises what ended the answer."""
        item = await self._items.get()
        if isinstance(item, NearfarError):
            raise item
        return item

    def _take(self, body: wire.AnyBody) -> None:
        if isinstance(body, Deltas):
            if body.first != self._num_deltas:
                raise WireError(f"piece {self._num_deltas} is missing")
            self._num_deltas += len(body.items)
            for packed in body.items:
                self._put(wire.unpack_delta(packed))
        elif isinstance(body, Finish):
            self.answered = True
            self._end(body)
        elif isinstance(body, Failure):
            self.answered = True
            self._end(to_error(body))

    def _put(self, delta: Delta) -> None:
        if not self._ended:
            self._items.put_nowait(delta)

    def _end(self, item: Finish | NearfarError) -> None:
        if not self._ended:
            self._items.put_nowait(item)
        self.close()
