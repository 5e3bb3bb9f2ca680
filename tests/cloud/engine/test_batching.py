"""Many answers at once are the answers one by one, and one that fails fails alone."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from backbone.tokenizer import Tokenizer
from cloud.engine.engine import CloudEngine
from engine.torch.engine_loop import FAR_LOOP
from engine.torch.options import EngineOptions
from engine.torch.step import Slice, StepResult
from engine.torch.tensor_parallel import GroupLost
from offload.errors import EngineStopped
from offload.messages import Delta, Finish, Request
from tests.cloud.golden import answer, ask, reference_tokens, text_of, tokens_of
from tests.tiny_checkpoints import write_checkpoint

PROMPTS = [
    "the cat",
    "what is seventeen plus twenty-five, and how many seconds has an hour?",
    "the quick brown fox jumps over the lazy dog",
    "the quick brown fox jumps over the lazy cat",
    "é",
    "how many seconds",
]
SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "unfused": {"fuse_operators": False},
    "pieces": {"max_num_batched_tokens": 5},
    "no-prefix-cache": {"enable_prefix_caching": False},
    "no-drafts": {"num_speculative_tokens": 0},
    "long-drafts": {"num_speculative_tokens": 9, "max_num_batched_tokens": 30, "max_num_seqs": 3},
    "short-first": {"short_first_s": 1.0, "max_num_seqs": 1},
    "two-at-a-time": {"max_num_seqs": 2},
    "small-blocks": {"block_size": 3},
    "preempting": {"block_size": 4, "num_gpu_blocks_override": 32},
    "all-at-once": {
        "block_size": 4,
        "num_gpu_blocks_override": 33,
        "max_num_batched_tokens": 7,
        "fuse_operators": False,
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("model"), "qwen3-tied")


@pytest.fixture(scope="module")
def windowed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("windowed"), "mistral-window")


@pytest.fixture(scope="module")
def golden(folder: Path, windowed: Path) -> dict[Path, list[list[int]]]:
    return {
        place: [reference_tokens(place, prompt, 40) for prompt in PROMPTS]
        for place in (folder, windowed)
    }


def start(folder: Path, **options: Any) -> CloudEngine:
    # The same is asked again and again, to be computed each time.
    return CloudEngine(
        folder, options=EngineOptions(device="cpu", response_cache_size=0, **options)
    )


async def all_at_once(
    engine: CloudEngine, requests: list[Request]
) -> list[tuple[list[Delta], Finish]]:
    return await asyncio.gather(*(answer(engine, request) for request in requests))


Wrapped = Callable[[Sequence[Slice]], "list[StepResult]"]


def intercept(engine: CloudEngine, change: Callable[[Sequence[Slice], Wrapped], Any]) -> None:
    """Put something between the engine's books and its network."""
    batching = engine.batching
    real = batching.run_step
    batching.run_step = lambda slices: change(slices, real)


@pytest.mark.parametrize("model", ["folder", "windowed"])
@pytest.mark.parametrize("settings", list(SETTINGS))
async def test_a_batch_writes_what_transformers_writes_one_by_one(
    model: str,
    settings: str,
    golden: dict[Path, list[list[int]]],
    request: pytest.FixtureRequest,
) -> None:
    place: Path = request.getfixturevalue(model)
    engine = start(place, **SETTINGS[settings])
    for _ in range(2):  # the second time with whatever the prefix cache kept
        answers = await all_at_once(engine, [ask(p, max_tokens=40) for p in PROMPTS])
        assert [tokens_of(deltas) for deltas, _ in answers] == golden[place]
    if settings == "preempting":  # a window gives blocks back, so that there are enough
        assert (engine.batching.scheduler.num_preemptions > 0) == (model == "folder")
    await engine.aclose()
    engine.batching.check_integrity()


async def test_a_seeded_answer_is_the_same_alone_and_among_others(folder: Path) -> None:
    engine = start(folder)
    seeded = ask(PROMPTS[1], max_tokens=30, temperature=1.0, top_p=0.9, seed=3)
    alone = tokens_of((await answer(engine, seeded))[0])
    others = [ask(p, max_tokens=30, temperature=1.3, seed=i) for i, p in enumerate(PROMPTS)]
    again = ask(PROMPTS[1], max_tokens=30, temperature=1.0, top_p=0.9, seed=3)
    answers = await all_at_once(engine, [*others, again])
    assert tokens_of(answers[-1][0]) == alone
    await engine.aclose()


async def test_a_seeded_answer_survives_preemption(folder: Path) -> None:
    requests = [ask(p, max_tokens=40, temperature=1.0, seed=i) for i, p in enumerate(PROMPTS)]
    texts = []
    for options in ({}, SETTINGS["preempting"]):
        engine = start(folder, **options)
        renewed = [
            ask(r.prompt or "", max_tokens=40, temperature=1.0, seed=r.sampling.seed)
            for r in requests
        ]
        texts.append([text_of(deltas) for deltas, _ in await all_at_once(engine, renewed)])
        preempted = engine.batching.scheduler.num_preemptions
        await engine.aclose()
    assert preempted > 0 and texts[0] == texts[1]


async def test_a_shared_prefix_is_computed_once(folder: Path) -> None:
    engine = start(folder, block_size=4)
    counted: list[int] = []

    def count(slices: Sequence[Slice], real: Wrapped) -> Any:
        counted.append(sum(slice_.num_tokens for slice_ in slices))
        return real(slices)

    intercept(engine, count)
    prompt = PROMPTS[1]
    length = (await answer(engine, ask(prompt, max_tokens=1)))[1].usage.prompt_tokens
    await answer(engine, ask(prompt, max_tokens=1))
    assert counted[0] == length and counted[1] <= 4
    await engine.aclose()


async def test_a_request_that_breaks_the_step_fails_alone(folder: Path) -> None:
    engine = start(folder)
    poison = Tokenizer(folder).encode("é")

    def refuse(slices: Sequence[Slice], real: Wrapped) -> Any:
        if any(s.sequence.tokens[: len(poison)] == poison for s in slices):
            raise ValueError("not with this one")
        return real(slices)

    intercept(engine, refuse)
    answers = await all_at_once(engine, [ask(p, max_tokens=10) for p in PROMPTS])
    reasons = [finish.reason for _, finish in answers]
    assert reasons.pop(PROMPTS.index("é")) == "error"
    assert set(reasons) <= {"length", "stop"}
    assert "could not compute" in (answers[PROMPTS.index("é")][1].error or "")
    await engine.aclose()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
async def test_arithmetic_that_overflows_fails_alone(folder: Path, temperature: float) -> None:
    engine = start(folder, block_size=2)
    prompts = ["the cat", "é é é é é é é é é é é é é é é é", "how many seconds"]
    runner = engine.runner
    real, poison = runner.network, Tokenizer(folder).encode(prompts[1])[-1]

    class Overflowing:
        logits = real.logits

        def __call__(self, tokens: torch.Tensor, *rest: Any) -> torch.Tensor:
            hidden: torch.Tensor = real(tokens, *rest)
            return hidden.masked_fill((tokens == poison).unsqueeze(-1), float("nan"))

    runner.network = Overflowing()
    requests = [ask(p, max_tokens=3, temperature=temperature, seed=1) for p in prompts]
    first, bad, last = await all_at_once(engine, requests)
    assert (bad[1].reason, tokens_of(bad[0])) == ("error", [])
    assert "overflowed" in (bad[1].error or "")
    assert {first[1].reason, last[1].reason} <= {"length", "stop"}
    runner.network = real
    again = await answer(engine, ask(prompts[1], max_tokens=3))
    assert again[1].reason == "length"
    assert engine.batching.scheduler.num_preemptions == 0
    await engine.aclose()


async def test_out_of_memory_shrinks_the_step_and_tries_again(
    folder: Path, golden: dict[Path, list[list[int]]], caplog: pytest.LogCaptureFixture
) -> None:
    engine = start(folder)

    def limited(slices: Sequence[Slice], real: Wrapped) -> Any:
        if sum(slice_.num_tokens for slice_ in slices) > 6:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(slices)

    intercept(engine, limited)
    with caplog.at_level(logging.WARNING):
        answers = await all_at_once(engine, [ask(p, max_tokens=40) for p in PROMPTS])
    assert [tokens_of(deltas) for deltas, _ in answers] == golden[folder]
    assert "out of memory: at most" in caplog.text
    await engine.aclose()


async def test_a_request_that_never_fits_in_memory_is_told(folder: Path) -> None:
    engine = start(folder)

    def never(slices: Sequence[Slice], real: Wrapped) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    intercept(engine, never)
    _, finish = await answer(engine, ask(max_tokens=3))
    assert finish.reason == "error" and "no memory left" in (finish.error or "")
    await engine.aclose()


async def test_one_reader_leaving_does_not_disturb_the_others(
    folder: Path, golden: dict[Path, list[list[int]]]
) -> None:
    engine = start(folder)

    async def leave_after_two(prompt: str) -> None:
        stream = engine.generate(ask(prompt, max_tokens=100))
        await anext(stream)
        await anext(stream)
        await stream.aclose()

    results = await asyncio.gather(
        answer(engine, ask(PROMPTS[0], max_tokens=40)),
        leave_after_two(PROMPTS[1]),
        answer(engine, ask(PROMPTS[2], max_tokens=40)),
        leave_after_two(PROMPTS[4]),
    )
    assert tokens_of(results[0][0]) == golden[folder][0]
    assert tokens_of(results[2][0]) == golden[folder][2]
    await engine.aclose()
    engine.batching.check_integrity()


async def test_a_deadline_ends_only_its_own_answer(folder: Path) -> None:
    engine = start(folder)
    late, well = await all_at_once(
        engine, [ask(PROMPTS[0], max_tokens=50, deadline_s=0.001), ask(PROMPTS[2], max_tokens=20)]
    )
    assert late[1].reason == "deadline"
    assert len(tokens_of(well[0])) == 20
    await engine.aclose()


async def test_closing_ends_the_answers_under_way(folder: Path) -> None:
    engine = start(folder)
    stream = engine.generate(ask(max_tokens=100))
    await anext(stream)
    await engine.aclose()
    items = [item async for item in stream]
    assert isinstance(items[-1], Finish)
    assert (items[-1].reason, items[-1].error) == ("error", FAR_LOOP.closed) or items[
        -1
    ].reason == "length"


async def test_a_broken_invariant_ends_answers_and_refuses_new_ones(folder: Path) -> None:
    engine = start(folder)
    scheduler = engine.batching.scheduler

    def broken() -> list[Slice]:
        raise AssertionError("free + used is not the total")

    scheduler.schedule = broken  # type: ignore[method-assign]
    _, finish = await answer(engine, ask())
    assert (finish.reason, finish.error) == ("error", FAR_LOOP.broken)
    with pytest.raises(EngineStopped, match="restart it"):
        await answer(engine, ask())
    await engine.aclose()


async def test_a_step_that_lost_the_other_processes_ends_the_model(folder: Path) -> None:
    engine = start(folder)

    def lost(slices: Sequence[Slice]) -> list[StepResult]:
        raise GroupLost("a step of the shared model failed")

    engine.batching.run_step = lost
    _, finish = await answer(engine, ask())
    assert (finish.reason, finish.error) == ("error", FAR_LOOP.broken)
    with pytest.raises(EngineStopped, match="restart it"):
        await answer(engine, ask())
    await engine.aclose()


async def test_random_arrivals_and_departures_leave_nothing_behind(
    folder: Path, golden: dict[Path, list[list[int]]]
) -> None:
    chance = random.Random(5)
    engine = start(
        folder, block_size=4, num_gpu_blocks_override=40, max_num_seqs=6, max_num_batched_tokens=24
    )

    async def one() -> None:
        await asyncio.sleep(chance.random() * 0.2)
        which = chance.randrange(len(PROMPTS))
        leave_after, wanted = chance.choice([(3, 40), (1, 40), (99, 40), (99, 7)])
        stream = engine.generate(ask(PROMPTS[which], max_tokens=wanted))
        tokens: list[int] = []
        async for item in stream:
            if isinstance(item, Delta):
                tokens += item.token_ids
            if len(tokens) >= leave_after:
                break
        await stream.aclose()
        assert tokens == golden[folder][which][: min(leave_after, wanted)]

    await asyncio.gather(*(one() for _ in range(40)))
    await engine.aclose()
    assert engine.batching.num_unfinished == 0
    engine.batching.check_integrity()
