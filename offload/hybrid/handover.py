"""Handover from edge to cloud: the cloud's stream, opened while the edge writes, and the seam."""

from __future__ import annotations

import asyncio
import re
from types import TracebackType

from offload.engine import AnswerStream
from offload.messages import Delta, Finish

# Chinese and Japanese write no blanks: there each character ends a word.
_LAST_WHOLE = re.compile(r".*[\s.,;:!?)\u3001-\u30ff\u3400-\u9fff\uff01-\uff60]", re.DOTALL)


def accepted(text: str) -> str:
    """Return the part of an unfinished answer that another model may go on from.

    What stands behind the last end of a word is left out: it may be half a word.
    """
    whole = _LAST_WHOLE.match(text)
    return whole[0] if whole else ""


class BackgroundStream:
    """Stream whose first item is awaited in the background; closed when the block is left."""

    def __init__(self) -> None:
        self._stream: AnswerStream | None = None
        self._first: asyncio.Future[Delta | Finish] | None = None

    async def __aenter__(self) -> BackgroundStream:
        return self

    def start(self, stream: AnswerStream) -> None:
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

    async def items(self) -> AnswerStream:
        """Yield the whole stream, its first item included; its errors are raised here."""
        assert self._stream is not None and self._first is not None, "nothing was started"
        yield await asyncio.shield(self._first)  # only __aexit__ cancels it, and once
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
        closed = asyncio.ensure_future(self._close(self._first, self._stream))
        cancelled: asyncio.CancelledError | None = None
        while not closed.done():  # a second cancellation waits for it as the first one does
            try:
                await asyncio.shield(closed)
            except asyncio.CancelledError as again:
                cancelled = again
        if cancelled is not None:
            raise cancelled

    async def _close(self, first: asyncio.Future[Delta | Finish], stream: AnswerStream) -> None:
        first.cancel()
        # Whatever the abandoned stream raises was either raised in items() or no longer matters.
        await asyncio.gather(first, return_exceptions=True)
        await stream.aclose()
