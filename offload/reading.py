"""Reading: who hears how much of a long prompt has been read, before an answer's first word.

A reader says so around an answer, as a door says for whom it is (offload/asker.py); an engine that
knows tells after each step. No word of it crosses the link.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar

Progress = Callable[[int, int], None]  # tokens read, and of how many

LEAST_TOKENS = 256  # still to be read; of less nobody is told, since the answer is there as soon

_HEARS: ContextVar[Progress | None] = ContextVar("reading", default=None)


def listener() -> Progress | None:
    """Return what is to be told of a prompt's reading, from any thread; None where nobody hears."""
    return _HEARS.get()


@contextlib.contextmanager
def heard_by(progress: Progress) -> Iterator[None]:
    """Call `progress` in this event loop while a long prompt is read for what is done inside."""
    loop = asyncio.get_running_loop()

    def hear(num_read: int, num_tokens: int) -> None:
        with contextlib.suppress(RuntimeError):  # the loop may be gone by now
            loop.call_soon_threadsafe(progress, num_read, num_tokens)

    token = _HEARS.set(hear)
    try:
        yield
    finally:
        _HEARS.reset(token)


def reading_line(num_read: int, num_tokens: int) -> str:
    """Return the line that a person reads."""
    return f"reading {num_read:,} of {num_tokens:,} tokens"


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
