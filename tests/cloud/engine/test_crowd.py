"""Many requests at once in little memory: all are answered as if alone, and nobody is forgotten."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from cloud.engine.engine import CloudEngine
from engine.torch.options import EngineOptions
from offload.asker import asked_by
from offload.messages import Request, Sampling
from offload.pair import CLOUD_MODEL
from tests.cloud.golden import answer, tokens_of
from tests.tiny_checkpoints import write_checkpoint

NUM_GREEDY, NUM_QUIET = 72, 24


def requests() -> list[tuple[str, Request]]:
    """Return the requests of one device that asks much, and then those of two that ask little."""
    chance = random.Random(0)
    devices = ["greedy"] * NUM_GREEDY + ["quiet", "calm"] * (NUM_QUIET // 2)
    return [
        (
            device,
            Request(
                prompt_token_ids=tuple(chance.randrange(1, 300) for _ in range(length)),
                sampling=Sampling(max_tokens=chance.randint(2, 24)),
            ),
        )
        for device in devices
        if (length := chance.randint(4, 40))
    ]


@pytest.mark.parametrize("overlapped", [False, True], ids=["plain", "overlapped"])
async def test_a_crowd_is_served_fairly_in_little_memory(overlapped: bool, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, "qwen3-tied")
    options = EngineOptions(
        device="cpu",
        block_size=8,
        num_gpu_blocks_override=24,
        max_num_seqs=16,
        async_scheduling=overlapped,
        num_speculative_tokens=0,
        response_cache_size=0,
    )
    engine = CloudEngine(folder, options=options)
    order: list[str] = []

    async def one(device: str, request: Request) -> list[int]:
        with asked_by(device):
            deltas, finish = await answer(engine, request)
        assert finish.error is None
        order.append(device)
        return list(tokens_of(deltas))

    asked = requests()
    together = await asyncio.gather(*(one(*each) for each in asked))
    report, ended = engine.report(), list(order)
    alone = [await one(*each) for each in asked[::12]]
    await engine.aclose()
    assert together[::12] == alone
    assert report.num_preemptions > 0 and (report.num_running, report.num_waiting) == (0, 0)
    # They came last, and asked less: they are not done last.
    last_quiet = max(i for i, device in enumerate(ended) if device != "greedy")
    assert "greedy" in ended[last_quiet:] and len(ended) == NUM_GREEDY + NUM_QUIET
    engine.batching.check_integrity()
    assert engine.scheduler.store.usage == 0


def test_a_step_on_a_cpu_is_short_unless_another_number_is_asked_for() -> None:
    by_default = EngineOptions(device="cpu").step_tokens()
    assert by_default < EngineOptions(device="cpu", max_num_batched_tokens=2048).step_tokens()
    engine = CloudEngine(CLOUD_MODEL, options=EngineOptions(device="cpu"))
    assert engine.batching.scheduler.budget == by_default, "nobody waits for more than that"
    asyncio.run(engine.aclose())
