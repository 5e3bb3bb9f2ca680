"""The same greedy question has the same answer at once, for whoever asked it before."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from cloud.engine.engine import CloudEngine
from engine.torch.options import EngineOptions
from offload.asker import asked_by, asker
from tests.cloud.golden import answer, ask, text_of, tokens_of
from tests.tiny_checkpoints import write_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("model"), "qwen3-tied")


@pytest.fixture
async def engine(folder: Path) -> AsyncIterator[CloudEngine]:
    engine = CloudEngine(folder, options=EngineOptions(device="cpu", response_cache_size=2))
    yield engine
    await engine.aclose()
    engine.batching.check_integrity()


def num_steps(engine: CloudEngine) -> list[int]:
    """Count the engine's steps from now on, in the one number of the list."""
    count, batching = [0], engine.batching
    real = batching.run_step

    def counted(slices: Any) -> Any:
        count[0] += 1
        return real(slices)

    batching.run_step = counted
    return count


async def test_an_answer_is_given_again_without_a_step(engine: CloudEngine) -> None:
    first = await answer(engine, ask(max_tokens=9, logprobs=2))
    steps = num_steps(engine)
    again = await answer(engine, ask(max_tokens=9, logprobs=2))
    assert steps == [0]
    assert again[0] == first[0] and text_of(again[0])
    assert again[1].usage.completion_tokens == 9 and again[1].usage.decode_s == 0.0


@pytest.mark.parametrize(
    "other",
    [{"max_tokens": 8}, {"prompt": "the dog"}, {"answer_prefix": " s"}, {"logit_bias": {9: 1.0}}],
)
async def test_another_question_has_its_own_answer(engine: CloudEngine, other: Any) -> None:
    await answer(engine, ask(max_tokens=9))
    steps = num_steps(engine)
    await answer(engine, ask(**{"max_tokens": 9, **other}))
    assert steps[0] > 0


async def test_what_was_drawn_by_chance_is_drawn_anew(engine: CloudEngine) -> None:
    for _ in range(2):
        steps = num_steps(engine)
        await answer(engine, ask(max_tokens=9, temperature=1.0, seed=1))
        assert steps[0] > 0


async def test_no_device_sees_another_ones_answer(engine: CloudEngine) -> None:
    with asked_by("a"):
        assert asker() == "a"
        mine = await answer(engine, ask(max_tokens=9))
    steps = num_steps(engine)
    with asked_by("b"):
        theirs = await answer(engine, ask(max_tokens=9))
    assert steps[0] > 0 and asker() == ""
    assert tokens_of(theirs[0]) == tokens_of(mine[0])


async def test_the_longest_unused_is_forgotten(engine: CloudEngine) -> None:
    for prompt in ("the cat", "the dog", "the fox"):
        await answer(engine, ask(prompt, max_tokens=3))
    steps = num_steps(engine)
    await answer(engine, ask("the fox", max_tokens=3))
    assert steps == [0]
    await answer(engine, ask("the cat", max_tokens=3))
    assert steps[0] > 0


async def test_an_answer_left_early_is_not_kept(engine: CloudEngine) -> None:
    stream = engine.generate(ask(max_tokens=40))
    await anext(stream)
    await stream.aclose()
    deltas, finish = await answer(engine, ask(max_tokens=40))
    assert (len(tokens_of(deltas)), finish.reason) == (40, "length")


async def test_it_can_be_turned_off(folder: Path) -> None:
    engine = CloudEngine(folder, options=EngineOptions(device="cpu", response_cache_size=0))
    await answer(engine, ask(max_tokens=3))
    steps = num_steps(engine)
    await answer(engine, ask(max_tokens=3))
    assert steps[0] > 0
    await engine.aclose()
