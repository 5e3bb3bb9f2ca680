"""Answer: an engine's stream read to its end, as text, thoughts and Finish."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass

from backbone.errors import NearfarError
from offload.engine import AnswerStream, Engine
from offload.errors import EngineStopped
from offload.messages import Delta, Finish, Request
from offload.thinking import split


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A whole answer; `thoughts` is what a reasoning model wrote before its text.

    `written` is both as the model wrote them, and `deltas` the pieces as they came.
    """

    text: str
    thoughts: str
    written: str
    deltas: tuple[Delta, ...]
    finish: Finish


async def collect(stream: AnswerStream) -> Answer:
    """Read an engine's stream to its end; text that was withdrawn on the way is left out.

    Raises EngineStopped where the stream ends without a Finish.
    """
    written, finish = "", None
    deltas: list[Delta] = []
    async with aclosing(stream):
        async for item in stream:
            assert finish is None, "nothing follows the Finish"
            if isinstance(item, Finish):
                finish = item
            else:
                written = item.apply(written)
                deltas.append(item)
    if finish is None:
        raise EngineStopped("the engine ended its answer without saying so; ask again")
    thoughts, text = split(written)
    return Answer(
        text=text, thoughts=thoughts, written=written, deltas=tuple(deltas), finish=finish
    )


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
