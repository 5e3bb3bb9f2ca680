"""Planning a step before the one before it is known changes no token, whatever happens between."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from backbone.sampling import Sampler, SamplingValues
from backbone.tokenizer import Tokenizer
from cloud.engine.engine import CloudEngine
from engine.torch.engine_loop import FAR_LOOP
from engine.torch.options import EngineOptions
from engine.torch.overlapped_batching import OverlappedBatching
from engine.torch.sequence import Sequence as Tokens
from engine.torch.step import Slice, StepInFlight
from engine.torch.tensor_parallel import GroupLost
from offload.messages import Delta, Finish, Request
from tests.cloud.golden import answer, ask, reference_tokens, text_of, tokens_of
from tests.tiny_checkpoints import write_checkpoint

PROMPTS = [
    "the cat",
    "what is seventeen plus twenty-five, and how many seconds has an hour?",
    "the quick brown fox jumps over the lazy dog",
    "é",
    "how many seconds",
]
SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "pieces": {"max_num_batched_tokens": 5},
    "two-at-a-time": {"max_num_seqs": 2},
    "small-blocks": {"block_size": 3},
    "preempting": {"block_size": 4, "num_gpu_blocks_override": 32},
}
SCHEMA = {
    "type": "object",
    "properties": {"sum": {"type": "integer"}},
    "required": ["sum"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("model"), "qwen3-tied")


@pytest.fixture(scope="module")
def windowed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("windowed"), "mistral-window")


@pytest.fixture(scope="module")
def golden(folder: Path) -> list[list[int]]:
    return [reference_tokens(folder, prompt, 40) for prompt in PROMPTS]


def start(folder: Path, *, overlap: bool = True, **options: Any) -> CloudEngine:
    settings = {"num_speculative_tokens": 0, "async_scheduling": overlap, **options}
    return CloudEngine(
        folder, options=EngineOptions(device="cpu", response_cache_size=0, **settings)
    )


def batching_of(engine: CloudEngine) -> OverlappedBatching:
    batching = engine.batching
    assert isinstance(batching, OverlappedBatching)
    return batching


async def together(
    engine: CloudEngine, requests: list[Request]
) -> list[tuple[list[Delta], Finish]]:
    return await asyncio.gather(*(answer(engine, request) for request in requests))


async def closed(engine: CloudEngine) -> None:
    await engine.aclose()
    assert engine.batching.num_unfinished == 0
    engine.batching.check_integrity()


@pytest.mark.parametrize("settings", list(SETTINGS))
async def test_tokens_are_those_of_transformers(
    settings: str, folder: Path, golden: list[list[int]]
) -> None:
    engine = start(folder, **SETTINGS[settings])
    for _ in range(2):  # the second time with whatever the prefix cache kept
        answers = await together(engine, [ask(p, max_tokens=40) for p in PROMPTS])
        assert [tokens_of(deltas) for deltas, _ in answers] == golden
    assert batching_of(engine).num_overlapped > 0
    if settings == "preempting":
        assert batching_of(engine).scheduler.num_preemptions > 0
    await closed(engine)


@pytest.mark.parametrize("settings", [{}, {"block_size": 2}, {"max_num_batched_tokens": 5}])
async def test_blocks_behind_a_window_are_given_back_as_without(
    settings: dict[str, Any], windowed: Path
) -> None:
    engine = start(windowed, **settings)
    for _ in range(2):
        answers = await together(engine, [ask(p, max_tokens=40) for p in PROMPTS])
        for prompt, (deltas, _) in zip(PROMPTS, answers, strict=True):
            assert tokens_of(deltas) == reference_tokens(windowed, prompt, 40)
        engine.batching.check_integrity()
    await closed(engine)


@pytest.mark.parametrize(
    "asked",
    [
        {"temperature": 1.0, "top_p": 0.9, "seed": 3},
        {"temperature": 0.7, "top_k": 20, "seed": 8},
        {"logit_bias": {70: 3.0}},
        {"stop": ("e",)},
        {"max_tokens": 1},
        # What the next step would hang on.
        {"repetition_penalty": 1.3},
        {"logprobs": 2},
        {"prompt_logprobs": True},
        {"json_schema": SCHEMA},
    ],
)
async def test_every_way_of_asking_is_answered_as_without(
    asked: dict[str, Any], folder: Path
) -> None:
    told = []
    for overlap in (True, False):
        engine = start(folder, overlap=overlap)
        requests = [ask(PROMPTS[1], **{"max_tokens": 40, **asked}), ask(PROMPTS[0], max_tokens=30)]
        answers = await together(engine, requests)
        told.append([(tokens_of(d), text_of(d), f.reason, f.usage) for d, f in answers])
        await closed(engine)
    for (tokens, text, reason, usage), other in zip(*told, strict=True):
        assert (tokens, text, reason) == other[:3]
        assert usage.completion_tokens == other[3].completion_tokens


async def test_drafts_are_made_as_without(folder: Path, golden: list[list[int]]) -> None:
    engine = start(folder, num_speculative_tokens=4)
    answers = await together(engine, [ask(p, max_tokens=40) for p in PROMPTS])
    assert [tokens_of(deltas) for deltas, _ in answers] == golden
    await closed(engine)


async def test_a_schema_among_others_is_waited_for_and_then_no_more(
    folder: Path, golden: list[list[int]]
) -> None:
    engine = start(folder)
    alone = (await answer(engine, ask(PROMPTS[2], max_tokens=40, json_schema=SCHEMA)))[0]
    before = batching_of(engine).num_overlapped
    answers = await together(
        engine,
        [
            ask(PROMPTS[2], max_tokens=40, json_schema=SCHEMA),
            *(ask(prompt, max_tokens=40) for prompt in PROMPTS),
        ],
    )
    assert before == 0 and tokens_of(answers[0][0]) == tokens_of(alone)
    assert [tokens_of(deltas) for deltas, _ in answers[1:]] == golden
    await closed(engine)


async def test_readers_come_and_go_and_leave_nothing_behind(
    folder: Path, golden: list[list[int]]
) -> None:
    chance = random.Random(5)
    engine = start(
        folder, block_size=4, num_gpu_blocks_override=40, max_num_seqs=4, max_num_batched_tokens=24
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
        assert tokens == golden[which][: min(leave_after, wanted)]

    await asyncio.gather(*(one() for _ in range(30)))
    assert batching_of(engine).num_overlapped > 0
    await closed(engine)


async def test_a_deadline_ends_an_answer_under_way(folder: Path, golden: list[list[int]]) -> None:
    engine = start(folder)
    late, well = await together(
        engine, [ask(PROMPTS[0], max_tokens=100, deadline_s=0.001), ask(PROMPTS[2], max_tokens=40)]
    )
    assert late[1].reason == "deadline"
    assert tokens_of(well[0]) == golden[2]
    await closed(engine)


@pytest.mark.parametrize("at", [1, 3, 6])
async def test_a_launch_that_fails_is_done_again(
    at: int, folder: Path, golden: list[list[int]]
) -> None:
    engine = start(folder)
    batching, count = batching_of(engine), 0
    real = batching.launch

    def failing(slices: Sequence[Slice], after: StepInFlight | None) -> StepInFlight:
        nonlocal count
        count += 1
        if count == at:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(slices, after)

    batching.launch = failing
    answers = await together(engine, [ask(p, max_tokens=40) for p in PROMPTS])
    assert [tokens_of(deltas) for deltas, _ in answers] == golden
    await closed(engine)


@pytest.mark.parametrize("at", [1, 3, 6])
async def test_a_step_that_fails_on_the_device_is_taken_back_with_the_one_behind_it(
    at: int, folder: Path, golden: list[list[int]]
) -> None:
    engine = start(folder)
    batching, count = batching_of(engine), 0
    real = batching.launch

    def failing(slices: Sequence[Slice], after: StepInFlight | None) -> StepInFlight:
        nonlocal count
        flight = real(slices, after)
        count += 1
        if count == at:
            flight.results = fail  # type: ignore[method-assign]
        return flight

    def fail() -> Any:
        raise RuntimeError("the device says no")

    batching.launch = failing
    answers = await together(engine, [ask(p, max_tokens=40) for p in PROMPTS])
    assert [tokens_of(deltas) for deltas, _ in answers] == golden
    await closed(engine)


async def test_a_poisoned_request_fails_alone(folder: Path, golden: list[list[int]]) -> None:
    engine = start(folder)
    batching, poison = batching_of(engine), Tokenizer(folder).encode("é")
    launch, step = batching.launch, batching.run_step

    def refuse(slices: Sequence[Slice]) -> None:
        if any(s.sequence.tokens[: len(poison)] == poison for s in slices):
            raise ValueError("not with this one")

    def launching(slices: Sequence[Slice], after: StepInFlight | None) -> StepInFlight:
        refuse(slices)
        return launch(slices, after)

    def stepping(slices: Sequence[Slice]) -> Any:
        refuse(slices)
        return step(slices)

    batching.launch, batching.run_step = launching, stepping
    answers = await together(engine, [ask(p, max_tokens=40) for p in PROMPTS])
    for prompt, (deltas, finish), expected in zip(PROMPTS, answers, golden, strict=True):
        if prompt == "é":
            assert finish.reason == "error" and "could not compute" in (finish.error or "")
        else:
            assert tokens_of(deltas) == expected
    await closed(engine)


async def test_arithmetic_that_overflows_ends_its_own_answer(
    folder: Path, golden: list[list[int]]
) -> None:
    engine = start(folder)
    runner = engine.runner
    real, poison = runner.network, golden[1][5]

    class Overflowing:
        logits = real.logits

        def __call__(self, tokens: torch.Tensor, *rest: Any) -> torch.Tensor:
            hidden: torch.Tensor = real(tokens, *rest)
            return hidden.masked_fill((tokens == poison).unsqueeze(-1), float("nan"))

    runner.network = Overflowing()
    clean = [i for i, tokens in enumerate(golden) if poison not in tokens]
    answers = await together(engine, [ask(p, max_tokens=40) for p in PROMPTS])
    assert clean and answers[1][1].reason == "error"
    assert "overflowed" in (answers[1][1].error or "")
    for which in clean:
        assert tokens_of(answers[which][0]) == golden[which]
    await closed(engine)


def test_an_expected_token_keeps_its_place_until_it_is_known() -> None:
    tokens = Tokens([5, 6], max_tokens=2, sampler=Sampler(SamplingValues(), seed=0))
    tokens.append_placeholder()
    assert (tokens.num_generated, tokens.num_pending, tokens.is_all_chosen) == (0, 3, False)
    tokens.append_placeholder()
    assert tokens.is_all_chosen
    tokens.append(7)
    assert (tokens.tokens[:3], tokens.num_generated) == ([5, 6, 7], 1)
    tokens.roll_back(2)
    assert (tokens.tokens, tokens.num_placeholders, tokens.num_computed) == ([5, 6, 7], 0, 2)


async def test_a_step_that_lost_another_process_is_not_done_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = start(folder)

    def lost(*_: object) -> StepInFlight:
        raise GroupLost("a step of the shared model failed")

    monkeypatch.setattr(batching_of(engine), "launch", lost)
    _, finish = await answer(engine, ask("the cat"))
    assert (finish.reason, finish.error) == ("error", FAR_LOOP.broken)
    await engine.aclose()
