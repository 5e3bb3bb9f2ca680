"""Waiting for what no event tells: the state of another process, a socket or a file."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

DEADLINE_S = 60.0  # a machine may be slow; only a fault takes this long
_LOOK_EVERY_S = 0.005

T = TypeVar("T")


async def until(holds: Callable[[], bool], patience_s: float = DEADLINE_S) -> None:
    """Let the event loop run until something is true."""
    end_s = time.monotonic() + patience_s
    while not holds():
        assert time.monotonic() < end_s, "it did not come true in time"
        await asyncio.sleep(_LOOK_EVERY_S)


async def until_read(
    read: Callable[[], Awaitable[T]],
    holds: Callable[[T], bool],
    *,
    patience_s: float = DEADLINE_S,
) -> T:
    """Read again and again, and return the first reading of which something is true."""
    end_s = time.monotonic() + patience_s
    while not holds(found := await read()):
        assert time.monotonic() < end_s, f"it did not come true in time; the last was {found}"
        await asyncio.sleep(_LOOK_EVERY_S)
    return found


def wait_until(holds: Callable[[], bool], patience_s: float = DEADLINE_S) -> None:
    """Hold this thread until something is true."""
    end_s = time.monotonic() + patience_s
    while not holds():
        assert time.monotonic() < end_s, "it did not come true in time"
        time.sleep(_LOOK_EVERY_S)
