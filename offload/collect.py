"""Answer: an engine's stream read to its end, as text, thoughts and Finish."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, cast

from backbone.errors import NearfarError
from offload.engine import Engine
from offload.messages import Delta, Finish, Request
from offload.thinking import split


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A whole answer; `thoughts` is what a reasoning model wrote before its text."""

    text: str
    thoughts: str
    finish: Finish


async def collect(stream: AsyncIterator[Delta | Finish]) -> Answer:
    """Read an engine's stream to its end; text that was withdrawn on the way is left out."""
    text, finish = "", None
    async with aclosing(cast(Any, stream)):
        async for item in stream:
            assert finish is None, "nothing follows the Finish"
            if isinstance(item, Finish):
                finish = item
            else:
                text = item.text if item.replaces else text + item.text
    assert finish is not None, "an engine's stream ends with a Finish"
    thoughts, answer = split(text)
    return Answer(text=answer, thoughts=thoughts, finish=finish)


def answer_now(engine: Engine, request: Request) -> Answer:
    """Wait for the answer to one request, and close the engine. Raises NearfarError.

    It may be called where an event loop runs already, as in a notebook: that loop waits, too.
    """

    async def answered() -> Answer:
        async with aclosing(engine):
            return await collect(engine.generate(request))

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        answer = asyncio.run(answered())
    else:
        with ThreadPoolExecutor(max_workers=1) as apart:
            answer = apart.submit(asyncio.run, answered()).result()
    if answer.finish.reason == "error":
        raise NearfarError(answer.finish.error or "the engine gave no answer; ask again")
    return answer
