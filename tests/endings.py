"""What every engine must keep of where an answer ends, for an engine that ends one of itself."""

from __future__ import annotations

from typing import Any

import pytest

from offload.engine import Engine
from offload.errors import RequestError
from offload.messages import Delta, Finish, Message, Request, Sampling

QUESTION = (Message(role="user", content="What is 4821 + 3977?"),)


async def written(engine: Engine, **asked: Any) -> tuple[list[int], Finish]:
    """Return the tokens of the answer, and its end."""
    request = Request(messages=QUESTION, sampling=Sampling(**{"max_tokens": 120} | asked))
    tokens: list[int] = []
    finish = None
    async for item in engine.generate(request):
        if isinstance(item, Delta):
            tokens += item.token_ids
        else:
            finish = item
    assert finish is not None
    return tokens, finish


async def keep_what_is_asked_of_ends(engine: Engine) -> None:
    """Check all three wishes, greedy and drawn."""
    whole, finish = await written(engine)
    assert finish.reason == "stop" and len(whole) > 3
    longer = len(whole) + 7
    tokens, finish = await written(engine, ignore_eos=True, max_tokens=longer)
    assert (tokens[: len(whole)], len(tokens), finish.reason) == (whole, longer, "length")
    tokens, _ = await written(engine, min_tokens=longer, max_tokens=longer + 40)
    assert tokens[: len(whole)] == whole and len(tokens) >= longer
    drawn, _ = await written(
        engine, min_tokens=longer, max_tokens=longer, temperature=1.0, top_k=5, seed=3
    )
    assert len(drawn) == longer
    end = whole[2]
    tokens, finish = await written(engine, stop_token_ids=(end,))
    assert (tokens, finish.reason) == (whole[: whole.index(end)], "stop")
    tokens, _ = await written(engine, stop_token_ids=(end,), min_tokens=6)
    assert len(tokens) >= 6 and end not in tokens[:6]
    tokens, finish = await written(engine, stop_token_ids=(end,), ignore_eos=True)
    assert (tokens, finish.reason) == (whole[: whole.index(end)], "stop")
    with pytest.raises(RequestError, match="stop_token_ids"):
        await written(engine, stop_token_ids=(9_999_999,))
    for more in ({"min_tokens": 3}, {"ignore_eos": True}):
        with pytest.raises(RequestError, match="JSON schema"):
            Sampling(json_schema={"type": "object"}, **more)
