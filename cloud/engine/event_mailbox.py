"""From the engine's thread to readers on event loops: one wake-up a step, not one a token."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict

from offload.messages import Delta, Finish

Item = Delta | Finish
Box = tuple[asyncio.AbstractEventLoop, "asyncio.Queue[Item]"]


class Mailroom:
    """Collects what a step posts, and delivers it at the end of the step."""

    def __init__(self) -> None:
        self._posts: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Queue[Item], Item]]]
        self._posts = defaultdict(list)

    def post(self, box: Box, item: Item) -> None:
        """Keep an item for its reader; called in the engine's thread."""
        loop, queue = box
        self._posts[loop].append((queue, item))

    def deliver(self) -> None:
        """Hand over everything kept; called in the engine's thread."""
        for loop, posts in self._posts.items():
            # The loop may be gone when the program is stopped in mid-answer.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_put_all, posts)
        self._posts = defaultdict(list)


def _put_all(posts: list[tuple[asyncio.Queue[Item], Item]]) -> None:
    for queue, item in posts:
        queue.put_nowait(item)
