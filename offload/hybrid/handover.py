"""Handover from edge to cloud: the cloud's stream, opened while the edge writes, and the seam."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from contextlib import aclosing
from types import TracebackType
from typing import cast

from offload.messages import Delta, Finish

Stream = AsyncIterator[Delta | Finish]
_LAST_WHOLE = re.compile(r".*[\s.,;:!?)]", re.DOTALL)


class _Closable(AsyncIterator[Delta | Finish]):
    async def aclose(self) -> None: ...


def closing(stream: Stream) -> aclosing[_Closable]:
    """Close the stream when the block is left; every engine's iterator is an async generator."""
    return aclosing(cast("_Closable", stream))


def accepted(text: str) -> str:
    """Return the part of an unfinished answer that another model may go on from.

    What stands behind the last end of a word is left out: it may be half a word.
    """
    whole = _LAST_WHOLE.match(text)
    return whole[0] if whole else ""


class BackgroundStream:
    """Stream whose first item is awaited in the background; closed when the block is left."""

    def __init__(self) -> None:
        self._stream: Stream | None = None
        self._first: asyncio.Future[Delta | Finish] | None = None

    async def __aenter__(self) -> BackgroundStream:
        return self

    def start(self, stream: Stream) -> None:
        """Begin to wait for the stream's first item."""
        assert self._stream is None, "a request is handed over once"
        self._stream = stream
        self._first = asyncio.ensure_future(anext(stream))

    @property
    def started(self) -> bool:
        """Whether anything was asked for."""
        return self._stream is not None

    @property
    def arrived(self) -> bool:
        """Whether the first item is here; a failed stream never arrives."""
        first = self._first
        return first is not None and first.done() and first.exception() is None

    async def items(self) -> Stream:
        """Yield the whole stream, its first item included; its errors are raised here."""
        assert self._stream is not None and self._first is not None, "nothing was started"
        yield await self._first
        async for item in self._stream:
            yield item

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if self._first is None or self._stream is None:
            return
        self._first.cancel()
        # Whatever the abandoned stream raises was either raised in items() or no longer matters.
        await asyncio.gather(self._first, return_exceptions=True)
        close = getattr(self._stream, "aclose", None)
        if close is not None:
            with contextlib.suppress(StopAsyncIteration):
                await close()
