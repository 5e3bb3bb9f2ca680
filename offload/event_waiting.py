"""Waiting for an event with a limit, from which a cancellation always comes through.

Before Python 3.12 `asyncio.wait_for` forgets a cancellation that meets the event.
"""

from __future__ import annotations

import asyncio


async def set_within(event: asyncio.Event, timeout_s: float) -> bool:
    """Wait until an event is set, at most `timeout_s`; return whether it was."""
    waiting = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait((waiting,), timeout=max(0.0, timeout_s))
        return waiting.done()
    finally:
        waiting.cancel()
