"""Waiting for an event: it is heard, the limit holds, and a cancellation comes through."""

from __future__ import annotations

import asyncio

import pytest

from offload.event_waiting import set_within


async def test_an_event_is_heard_and_a_limit_holds() -> None:
    event = asyncio.Event()
    assert not await set_within(event, 0.01)
    event.set()
    assert await set_within(event, 60)


async def test_a_cancellation_that_meets_the_event_comes_through() -> None:
    event = asyncio.Event()
    waiting = asyncio.create_task(set_within(event, 60))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    event.set()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
