"""What cannot be taken is refused in one line, and harms nobody who asked at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from cloud.engine.engine import CloudEngine
from engine.torch.options import EngineOptions
from engine.torch.step import Slice
from offload.errors import ContextLengthError, NearfarError, Overloaded, RequestError
from offload.messages import Request, Sampling
from tests.cloud.golden import answer, ask, reference_tokens, tokens_of
from tests.tiny_checkpoints import write_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("model"), "qwen3-tied")


@pytest.fixture(params=[False, True], ids=["plain", "overlapped"])
async def engine(folder: Path, request: pytest.FixtureRequest) -> AsyncIterator[CloudEngine]:
    options = EngineOptions(
        device="cpu",
        async_scheduling=request.param,
        num_speculative_tokens=0,
        response_cache_size=0,
    )
    engine = CloudEngine(folder, options=options)
    yield engine
    await engine.aclose()
    engine.batching.check_integrity()


def by_ids(*tokens: int, **sampling: Any) -> Request:
    return Request(prompt_token_ids=tokens, sampling=Sampling(**sampling))


REFUSED = {
    "over the context": lambda: ask("cat " * 200),
    "exactly the context": lambda: by_ids(*[5] * 128),
    "an unknown token": lambda: by_ids(5, 10**6),
    "a token below zero": lambda: by_ids(5, -1),
    "an unknown token in the bias": lambda: ask(logit_bias={10**6: 1.0}),
    "no tokens at all": lambda: ask(""),
}


@pytest.mark.parametrize("reason", list(REFUSED))
async def test_it_is_refused_while_others_are_answered(
    reason: str, engine: CloudEngine, folder: Path
) -> None:
    well = asyncio.create_task(answer(engine, ask("the cat", max_tokens=40)))
    with pytest.raises(NearfarError) as refusal:
        await answer(engine, REFUSED[reason]())
    assert isinstance(refusal.value, RequestError) and len(str(refusal.value).splitlines()) == 1
    assert tokens_of((await well)[0]) == reference_tokens(folder, "the cat", 40)


def test_an_answer_of_no_tokens_cannot_be_asked_for() -> None:
    for count in (0, -1, 1_000_001):
        with pytest.raises(NearfarError, match="max_tokens is"):
            Sampling(max_tokens=count)


async def test_a_million_tokens_end_where_the_context_does(engine: CloudEngine) -> None:
    deltas, finish = await answer(engine, by_ids(*[5] * 120, max_tokens=1_000_000))
    assert (len(tokens_of(deltas)), finish.reason) == (8, "length")


async def test_the_longest_prompt_leaves_room_for_one_token(engine: CloudEngine) -> None:
    deltas, finish = await answer(engine, by_ids(*[5] * 127, max_tokens=9))
    assert (len(tokens_of(deltas)), finish.reason) == (1, "length")
    with pytest.raises(ContextLengthError):
        await answer(engine, by_ids(*[5] * 128))


async def test_memory_that_runs_out_in_the_network_shrinks_the_step(
    engine: CloudEngine, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    runner = engine.runner
    network, sizes = runner.network, []

    class Small:
        logits = network.logits

        def __call__(self, tokens: torch.Tensor, *rest: Any) -> torch.Tensor:
            sizes.append(len(tokens))
            if len(tokens) > 5:
                raise torch.OutOfMemoryError("CUDA out of memory")
            hidden: torch.Tensor = network(tokens, *rest)
            return hidden

    runner.network = Small()
    deltas, _ = await answer(engine, by_ids(*range(5, 30), max_tokens=40))
    assert tokens_of(deltas) == reference_tokens(folder, list(range(5, 30)), 40)
    assert max(sizes) == 25 and "out of memory: at most" in caplog.text
    # What was learnt is kept: the next prompt is read in pieces from the start.
    del sizes[:]
    await answer(engine, by_ids(*range(40, 65), max_tokens=2))
    assert max(sizes) <= 6


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("can't start new thread")], ids=["python", "threads"]
)
async def test_no_memory_to_take_a_request_is_told_as_a_reason_to_come_again(
    engine: CloudEngine, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prepare(request: Request) -> Any:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(engine, "_prepare", prepare)
        with pytest.raises(Overloaded, match="no memory left for this request; ask again later"):
            await answer(engine, ask("the cat"))
    _, finish = await answer(engine, ask("the cat", max_tokens=3))
    assert finish.reason == "length"


async def test_a_poisoned_request_fails_alone_and_says_why(
    engine: CloudEngine, folder: Path
) -> None:
    runner = engine.runner
    attend = runner.attention.prepare

    def prepare(batch: Any) -> None:
        if 77 in batch.tokens.tolist():
            raise ValueError("a secret of the request")
        attend(batch)

    runner.attention.prepare = prepare
    prompts: Sequence[Sequence[int]] = ([5, 6, 7], [8, 77, 9], [10, 11])
    answers = await asyncio.gather(*(answer(engine, by_ids(*p, max_tokens=9)) for p in prompts))
    assert [finish.reason for _, finish in answers][1] == "error"
    assert answers[1][1].error == "the cloud could not compute this request (ValueError); ask again"
    for which in (0, 2):
        expected = reference_tokens(folder, list(prompts[which]), 9)
        if 77 not in expected:
            assert tokens_of(answers[which][0]) == expected


async def test_a_step_without_a_slice_is_never_computed(engine: CloudEngine) -> None:
    computed: list[int] = []
    batching = engine.batching
    real = batching.run_step

    def counted(slices: Sequence[Slice]) -> Any:
        computed.append(len(slices))
        return real(slices)

    batching.run_step = counted
    await answer(engine, ask(max_tokens=3))
    assert 0 not in computed
