"""Answer task of the cloud: runs the engine for one request and buffers what it writes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import NamedTuple

from offload.engine import Engine
from offload.errors import CloudFailed
from offload.link.failures import to_failure
from offload.link.message_bodies import Failure, Reading
from offload.link.send_buffer import SendBuffer
from offload.link.wire import pack_delta
from offload.link.workload import AnswerMeter
from offload.messages import Finish, Request, Side, Usage
from offload.reading import heard_by


class Owner(NamedTuple):
    """Owner of an answer: the key of a device, and one run of a program on it."""

    device_key: str
    session: str


class Key(NamedTuple):
    """Key of an answer: one request of one owner."""

    owner: Owner
    request_id: str


class AnswerTask:
    """Answer task: runs the engine for one request until its end, a stop, or the deadline."""

    def __init__(
        self,
        engine: Engine,
        request: Request,
        out: SendBuffer,
        meter: AnswerMeter,
        *,
        on_end: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._request = request
        self._meter = meter
        self._on_end = on_end
        self.out = out
        self.task = asyncio.create_task(self._relay())
        self.task.add_done_callback(self._ended)
        self._timer: asyncio.TimerHandle | None = None
        if request.deadline_s is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(request.deadline_s, self._expire)

    @property
    def is_running(self) -> bool:
        return not self.task.done()

    def stop(self) -> None:
        """Close the engine's iterator; nothing more is sent."""
        self.out.detach()
        self.task.cancel()

    def give_up(self, failure: Failure) -> None:
        """Close the engine's iterator and say why."""
        self.out.finish(failure, drop_unsent=True)
        self.task.cancel()

    def _ended(self, _: asyncio.Task[None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._meter.ended()
        self._on_end()

    def _expire(self) -> None:
        # Said at once: the engine may be slow to stop.
        usage = Usage(completion_tokens=self._meter.num_tokens)
        self.out.finish(Finish(reason="deadline", usage=usage), drop_unsent=True)
        self.task.cancel()

    def _hear(self, num_read: int, num_tokens: int, _: Side) -> None:
        self.out.tell(Reading(num_read, num_tokens))

    async def _relay(self) -> None:
        try:
            with heard_by(self._hear):
                await self._pull()
            self.out.finish(
                to_failure(CloudFailed("the cloud's engine stopped in mid-answer; ask again"))
            )
        except Exception as error:
            self._meter.failed()
            self.out.finish(to_failure(error))

    async def _pull(self) -> None:
        items = self._engine.generate(self._request)
        async with contextlib.aclosing(items):
            async for item in items:
                if isinstance(item, Finish):
                    self._meter.finished(item)
                    self.out.finish(item)
                    return
                self._meter.said(item)
                self.out.push(pack_delta(item))
                await self.out.room()
