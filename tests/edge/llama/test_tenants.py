"""The near model's context is kept apart, too: what one asker had read is not found by another."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from edge.llama.runtime import LlamaEngine, LlamaOptions
from offload.asker import asked_by
from offload.messages import Delta, Finish, Request, Sampling
from offload.pair import EDGE_MODEL

PROMPT = "The quick brown fox jumps over the lazy dog, and then over the next one, too."


@pytest.fixture(params=[1, 2])
async def engine(request: pytest.FixtureRequest) -> AsyncIterator[LlamaEngine]:
    options = LlamaOptions(num_threads=1, max_num_seqs=request.param)
    made = LlamaEngine(EDGE_MODEL, options=options)
    yield made
    await made.aclose()


async def ask(
    engine: LlamaEngine, who: str, salt: str = "", session: str | None = None
) -> tuple[int, str]:
    """The cached tokens of an answer, and its text."""
    sampling = Sampling(max_tokens=3)
    asked = Request(prompt=PROMPT, sampling=sampling, cache_salt=salt, session=session)
    with asked_by(who):
        *said, finish = [item async for item in engine.generate(asked)]
    assert isinstance(finish, Finish)
    return finish.usage.cached_tokens, "".join(d.text for d in said if isinstance(d, Delta))


async def test_a_prompt_is_found_by_whoever_had_it_read_and_by_no_other(
    engine: LlamaEngine,
) -> None:
    first, text = await ask(engine, "alice")
    again, same = await ask(engine, "alice")
    assert first == 0 and again > 8 and text == same
    assert (await ask(engine, "bob"))[0] == 0
    assert (await ask(engine, "alice", salt="s"))[0] == 0
    assert (await ask(engine, "bob", salt="t"))[1] == text


async def test_nobody_goes_on_with_a_conversation_of_anothers_by_its_name(tmp_path: Path) -> None:
    options = LlamaOptions(num_threads=1, session_folder=tmp_path)
    engine = LlamaEngine(EDGE_MODEL, options=options)
    long = "Tell me of the fox. " * 12
    try:
        sampling = Sampling(max_tokens=2)
        cached = {}
        for who in ("alice", "bob", "alice"):
            asked = Request(prompt=long, sampling=sampling, session="mine")
            with asked_by(who):
                *_, finish = [item async for item in engine.generate(asked)]
            assert isinstance(finish, Finish)
            cached[who] = finish.usage.cached_tokens
    finally:
        await engine.aclose()
    assert cached["bob"] == 0 and cached["alice"] > 32, "alice's own came back from disk"
