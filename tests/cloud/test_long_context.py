"""A long context takes memory in proportion to its length, and its pieces see one another."""

from __future__ import annotations

from pathlib import Path

import pytest

from backbone.sampling import Sampler, SamplingValues
from cloud.engine.blocks import BlockPool
from cloud.engine.engine import CloudEngine
from cloud.engine.memory import plan_memory
from cloud.engine.options import EngineOptions
from cloud.engine.scheduler import Scheduler
from cloud.engine.sequence import Sequence
from offload.pair import CLOUD_MODEL
from tests.cloud.golden import answer, ask, reference_tokens, tokens_of
from tests.tiny_checkpoints import write_checkpoint

BLOCK = 16


def blocks_of(num_tokens: int) -> tuple[int, int]:
    """Read a prompt in steps of 2048; return the blocks it holds, and the largest step."""
    pool = BlockPool(4096)
    planner = Scheduler(pool, block_size=BLOCK, max_num_seqs=4, max_num_batched_tokens=2048)
    sampler = Sampler(SamplingValues(), seed=0)
    sequence = Sequence(list(range(num_tokens)), max_tokens=1, sampler=sampler)
    planner.add(sequence)
    largest = 0
    while sequence.num_pending:
        slices = planner.schedule()
        largest = max(largest, sum(slice_.num_tokens for slice_ in slices))
        planner.computed(slices[0])
    planner.check_integrity()
    return len(sequence.blocks), largest


def test_blocks_grow_with_the_length_and_steps_do_not() -> None:
    for num_tokens in (4096, 8192, 16384, 32768):
        assert blocks_of(num_tokens) == (num_tokens // BLOCK, 2048)


def test_a_steps_memory_does_not_hang_on_the_context() -> None:
    short, long = (
        plan_memory(CLOUD_MODEL, EngineOptions(device="cpu", max_model_len=length))
        for length in (128, 512)
    )
    assert short.activation_bytes == long.activation_bytes
    assert short.kv_bytes_per_token == long.kv_bytes_per_token


FAMILIES = [
    "mistral-window",
    "qwen2-some-windows",
    "qwen3-yarn",
    "qwen3-moe",
    "gemma2-some-windows",
    "gemma3-some-windows",
]


@pytest.mark.parametrize("caching", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
async def test_windows_hold_across_pieces_and_blocks(
    family: str, caching: bool, tmp_path: Path
) -> None:
    folder = write_checkpoint(tmp_path, family)
    options = EngineOptions(
        device="cpu",
        max_num_batched_tokens=6,
        block_size=3,
        enable_prefix_caching=caching,
        response_cache_size=0,
    )
    engine = CloudEngine(folder, options=options)
    prompt = "what is seventeen plus twenty-five, and how many seconds has an hour?"
    expected = reference_tokens(folder, prompt, 40)
    for _ in range(2):  # the second time from the prefix cache
        deltas, _ = await answer(engine, ask(prompt, max_tokens=40))
        assert tokens_of(deltas) == expected
    await engine.aclose()
    engine._loop._batching.check_integrity()
