"""Reading: who hears how much of a long prompt has been read, before an answer's first word.

A reader says so around an answer, as a door says for whom it is (offload/asker.py); an engine that
knows tells after each step. Over the link it goes by READING (offload/link/message_bodies.py).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Protocol

from offload.messages import Side


class Progress(Protocol):
    """What is told of a reading: tokens read, of how many, and on which side."""

    def __call__(self, num_read: int, num_tokens: int, side: Side = "edge", /) -> None: ...


Hearer = Callable[[int, int, Side], None]

LEAST_TOKENS = 256  # still to be read; of less nobody is told, since the answer is there as soon

_HEARS: ContextVar[Progress | None] = ContextVar("reading", default=None)


def listener() -> Progress | None:
    """Return what is to be told of a prompt's reading, from any thread; None where nobody hears."""
    return _HEARS.get()


@contextlib.contextmanager
def heard_by(hearer: Hearer) -> Iterator[None]:
    """Call `hearer` in this event loop while a long prompt is read for what is done inside."""
    loop = asyncio.get_running_loop()

    def hear(num_read: int, num_tokens: int, side: Side = "edge", /) -> None:
        with contextlib.suppress(RuntimeError):  # the loop may be gone by now
            loop.call_soon_threadsafe(hearer, num_read, num_tokens, side)

    token = _HEARS.set(hear)
    try:
        yield
    finally:
        _HEARS.reset(token)


def reading_line(num_read: int, num_tokens: int, side: Side = "edge") -> str:
    """Return the line that a person reads."""
    done = f"reading {num_read:,} of {num_tokens:,} tokens"
    return f"the far model is {done}" if side == "cloud" else done


class PromptReading:
    """Reading of one prompt; silent where little was left to read when it began."""

    def __init__(self, progress: Progress | None, num_held: int, num_tokens: int) -> None:
        is_long = num_tokens - num_held >= LEAST_TOKENS
        self._progress = progress if is_long else None
        self._num_tokens = num_tokens
        self.tell(num_held)

    def tell(self, num_read: int) -> None:
        """Say how much has been read by now."""
        if self._progress is not None:
            self._progress(min(num_read, self._num_tokens), self._num_tokens)
