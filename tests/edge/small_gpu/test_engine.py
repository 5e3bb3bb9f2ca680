"""One engine and many readers: each gets an answer of its own, or a word why not."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from backbone.errors import NearfarError
from edge.small_gpu.runtime import TorchEdgeEngine, TorchOptions
from engine.torch.continuous_batching import Batching
from offload.errors import RequestError
from offload.messages import Delta, Finish, Message, Request, Sampling
from offload.pair import CLOUD_MODEL
from tests.edge.small_gpu.tiny_folders import NEVER_ENDS, SMALL, finish_of
from tests.tiny_checkpoints import write_checkpoint
from tests.waiting import until


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("batch"), "qwen3")


@pytest.fixture(scope="module")
def engine() -> Iterator[TorchEdgeEngine]:
    options = TorchOptions(device="cpu", max_num_seqs=4)
    engine = TorchEdgeEngine(CLOUD_MODEL, options=options)
    yield engine
    engine.close()


def asked(text: str, **sampling: Any) -> Request:
    return Request(messages=(Message(role="user", content=text),), sampling=Sampling(**sampling))


async def read(engine: TorchEdgeEngine, request: Request) -> tuple[str, Finish]:
    items = [item async for item in engine.generate(request)]
    text = "".join(item.text for item in items if isinstance(item, Delta))
    return text, finish_of(items)


async def test_many_readers_get_each_their_own_answer(engine: TorchEdgeEngine) -> None:
    questions = [asked(f"What is {n} + {2 * n}?") for n in range(101, 107)]
    alone = [await read(engine, question) for question in questions]
    together = await asyncio.gather(*(read(engine, question) for question in questions))
    assert [text for text, _ in together] == [text for text, _ in alone]


async def test_a_schema_holds_one_answer_and_not_its_neighbours(engine: TorchEdgeEngine) -> None:
    held = asked("Say yes.", json_schema={"enum": ["yes", "no"]})
    refused = asked("x", json_schema={"type": "nonsense"})
    free, made, error = await asyncio.gather(
        read(engine, asked("What is 4821 + 3977?")),
        read(engine, held),
        read(engine, refused),
        return_exceptions=True,
    )
    assert not isinstance(free, BaseException) and free[0].endswith("8798")
    assert not isinstance(made, BaseException) and made[0] in ('"yes"', '"no"')
    assert made[1].reason == "stop"
    assert isinstance(error, RequestError) and "json_schema" in str(error)


async def test_what_is_forced_takes_fewer_steps_and_tells_of_every_token(
    engine: TorchEdgeEngine, stumble: Callable[[Callable[[list[int]], None]], None]
) -> None:
    steps: list[list[int]] = []
    stumble(steps.append)
    only = {"const": {"answer": 42, "units": ["seconds", "hours"]}}
    request = asked("How many?", json_schema=only)
    deltas = [item async for item in engine.generate(request) if isinstance(item, Delta)]
    assert json.loads("".join(delta.text for delta in deltas)) == only["const"]
    assert len(steps) < 0.5 * len(deltas)
    assert all(delta.confidence[0].logprob < 0 for delta in deltas)


async def test_closing_lets_an_answer_end_and_refuses_those_who_wait(
    stumble: Callable[[Callable[[list[int]], None]], None],
) -> None:
    held, go = threading.Event(), threading.Event()
    stumble(lambda all_tokens: None if len(all_tokens) > 1 else _hold(held, go))
    engine = TorchEdgeEngine(CLOUD_MODEL, options=TorchOptions(device="cpu", max_num_seqs=1))
    stream = engine.generate(asked("Hello!", max_tokens=30, logit_bias=NEVER_ENDS))
    await anext(stream)
    assert await asyncio.to_thread(held.wait, 120), "the next token was not begun"
    waiting = asyncio.create_task(read(engine, asked("Hello!", max_tokens=5)))
    await until(lambda: engine.loop.orders.num_waiting >= 1)
    closing = asyncio.create_task(engine.aclose())
    await until(lambda: engine.loop.orders.num_waiting >= 2)
    go.set()
    rest = [item async for item in stream]
    assert finish_of(rest).usage.completion_tokens == 30
    with pytest.raises(NearfarError, match="closed"):
        await waiting
    await closing


def _hold(held: threading.Event, go: threading.Event) -> None:
    held.set()
    assert go.wait(timeout=120), "nobody let the step go on"


def test_an_engine_that_is_dropped_leaves_no_thread_behind(folder: Path) -> None:
    engine = TorchEdgeEngine(folder, options=TorchOptions(**SMALL))
    thread = engine.loop.thread
    del engine
    thread.join(timeout=60)
    assert not thread.is_alive()


def test_a_broken_invariant_reaches_every_reader(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Batching) -> None:
        raise AssertionError("the books are wrong")

    engine = TorchEdgeEngine(folder, options=TorchOptions(**SMALL))
    monkeypatch.setattr(Batching, "step", broken)
    for _ in range(2):  # the second is asked of an engine that is broken already
        with pytest.raises(NearfarError, match="broke down"):
            list(engine.answer(Request(prompt="and")))
    engine.close()
