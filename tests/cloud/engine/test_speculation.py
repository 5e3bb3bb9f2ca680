"""Drafts are copied from what was said, and change nothing but the time an answer takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cloud.engine.engine import CloudEngine
from engine.torch.options import EngineOptions
from tests.cloud.golden import answer, ask, tokens_of
from tests.tiny_checkpoints import write_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("model"), "llama-tied")


async def test_each_token_of_a_step_is_told_with_its_own_text(folder: Path) -> None:
    deltas = {}
    for drafts in (0, 4):
        options = EngineOptions(device="cpu", num_speculative_tokens=drafts)
        engine = CloudEngine(folder, options=options)
        deltas[drafts], _ = await answer(engine, ask("ab" * 20, max_tokens=40, logprobs=2))
        await engine.aclose()
    plain, drafted = ([(d.token_ids, d.text, d.index) for d in deltas[n]] for n in (0, 4))
    assert drafted == plain and all(len(ids) <= 1 for ids, _, _ in drafted)
    assert all(len(d.alternatives) == len(d.token_ids) for d in deltas[4])


async def run(folder: Path, num_speculative_tokens: int, **asked: Any) -> tuple[list[int], int]:
    """Return the tokens of a repeating answer, and in how many steps it was written."""
    options = EngineOptions(device="cpu", num_speculative_tokens=num_speculative_tokens)
    engine = CloudEngine(folder, options=options)
    batching, steps = engine.batching, 0
    real = batching.run_step

    def counted(slices: Any) -> Any:
        nonlocal steps
        steps += 1
        return real(slices)

    batching.run_step = counted
    deltas, _ = await answer(engine, ask("the cat sat on the mat the cat sat", **asked))
    await engine.aclose()
    batching.check_integrity()
    return tokens_of(deltas), steps


# A bias that leaves one token to choose makes an answer that repeats itself; with two, it may.
REPEATING = {"max_tokens": 60, "logit_bias": {70: 100.0}}
WAVERING = {"max_tokens": 60, "logit_bias": {70: 100.0, 71: 99.0}}


@pytest.mark.parametrize("asked", [{"max_tokens": 60}, REPEATING, WAVERING])
async def test_the_tokens_are_the_same_with_and_without(
    folder: Path, asked: dict[str, Any]
) -> None:
    plain, _ = await run(folder, 0, **asked)
    for longest in (1, 4, 9):
        assert (await run(folder, longest, **asked))[0] == plain


async def test_a_repeating_answer_takes_fewer_steps(folder: Path) -> None:
    plain, slow = await run(folder, 0, **REPEATING)
    drafted, quick = await run(folder, 4, **REPEATING)
    assert drafted == plain and len(plain) == 60
    assert slow == 60 and quick < 25


@pytest.mark.parametrize("asked", [{"temperature": 1.0, "seed": 3}, {"repetition_penalty": 1.3}])
async def test_what_cannot_be_verified_is_not_drafted(folder: Path, asked: Any) -> None:
    tokens, steps = await run(folder, 4, max_tokens=30, **asked)
    assert len(tokens) == steps == 30
