from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

from edge.llama.options import LlamaOptions
from edge.llama.runtime import LlamaEngine
from offload.engine import HiddenStateSource
from offload.messages import Delta, Request, Sampling

States = dict[int, np.ndarray]


def _engine(path: Path, **options: object) -> LlamaEngine:
    known = {"num_threads": 1, "kv_cache_dtype": "f32", "flash_attention": False, **options}
    return LlamaEngine(path, options=LlamaOptions(**known))  # type: ignore[arg-type]


def _ask(engine: LlamaEngine, prompt: str, *, watched: bool = True) -> tuple[list[Delta], States]:
    request = Request(prompt=prompt, sampling=Sampling(max_tokens=20))
    states: States = {}
    if not watched:
        return list(engine.answer(request))[:-1], states  # type: ignore[return-value]
    with engine.watch(request.id, states.__setitem__):
        return list(engine.answer(request))[:-1], states  # type: ignore[return-value]


def _tokens(deltas: list[Delta]) -> list[int]:
    return [token for delta in deltas for token in delta.token_ids]


def _output_matrix(path: Path) -> np.ndarray:
    """Return the matrix that turns hidden states into logits, [vocabulary, hidden]."""
    tensors = gguf.GGUFReader(path).tensors
    return next(np.array(t.data) for t in tensors if t.name == "output.weight")


@pytest.mark.usefixtures("always_drafted")
@pytest.mark.parametrize("options", [{}, {"max_num_seqs": 3}, {"max_draft_tokens": 6}])
def test_each_state_makes_the_logits_its_token_was_chosen_from(
    tiny_gguf: Path, options: dict[str, int]
) -> None:
    engine = _engine(tiny_gguf, **options)
    assert isinstance(engine, HiddenStateSource)
    deltas, states = _ask(engine, "ab" * 20)
    engine.close()
    output = _output_matrix(tiny_gguf)
    assert list(states) == list(range(20))
    for delta in deltas:
        logits = output @ states[delta.index]
        (token,), (confidence,) = delta.token_ids, delta.confidence
        assert int(logits.argmax()) == token
        logprobs = logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())
        assert logprobs[token] == pytest.approx(confidence.logprob, abs=1e-4)


def test_watching_changes_no_token_and_ends_with_its_block(tiny_gguf: Path) -> None:
    engine = _engine(tiny_gguf)
    unwatched, none = _ask(engine, "hello there", watched=False)
    watched, states = _ask(engine, "hello there")
    again, still_none = _ask(engine, "hello there", watched=False)
    engine.close()
    assert _tokens(unwatched) == _tokens(watched) == _tokens(again)
    assert len(states) == 20 and none == still_none == {}


async def test_one_lane_is_watched_while_long_prompts_are_read_beside_it(
    tiny_gguf: Path, make_tiny_gguf: Callable[..., Path]
) -> None:
    engine = _engine(tiny_gguf, max_num_seqs=3)
    alone, expected = _ask(engine, "hello")
    states: States = {}

    async def read(prompt: str, *, watched: bool) -> list[Delta]:
        request = Request(prompt=prompt, sampling=Sampling(max_tokens=20))
        if not watched:
            return [i async for i in engine.generate(request)][:-1]  # type: ignore[misc]
        with engine.watch(request.id, states.__setitem__):
            return [i async for i in engine.generate(request)][:-1]  # type: ignore[misc]

    together, *_ = await asyncio.gather(
        read("hello", watched=True),
        read("x" * 200, watched=False),
        read("y" * 200, watched=False),
    )
    engine.close()
    assert _tokens(together) == _tokens(alone)
    for index, state in expected.items():
        np.testing.assert_allclose(states[index], state, atol=1e-3)
