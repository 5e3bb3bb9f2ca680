"""The cloud's stream that is asked for ahead is closed whatever happens to its reader."""

from __future__ import annotations

import asyncio

import pytest

from offload.engine import AnswerStream
from offload.hybrid.handover import BackgroundStream


@pytest.mark.parametrize("times", [1, 2, 3])
async def test_a_reader_cancelled_again_while_the_stream_closes_leaves_it_closed(
    times: int,
) -> None:
    closing, may_close, closed = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def far() -> AnswerStream:
        try:
            await asyncio.Event().wait()
        finally:
            closing.set()
            await may_close.wait()
            closed.set()
        yield  # type: ignore[misc]

    async def read() -> None:
        async with BackgroundStream() as ahead:
            ahead.start(far())
            async for _ in ahead.items():
                pass

    reader = asyncio.create_task(read())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    for _ in range(times):
        reader.cancel()
        await asyncio.wait_for(closing.wait(), 5)
        await asyncio.sleep(0)
    may_close.set()
    with pytest.raises(asyncio.CancelledError):
        await reader
    assert closed.is_set()
