"""A long context takes memory in proportion to its length, and its pieces see one another."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from backbone.config import NetworkConfig
from backbone.fused_network import FusedNetwork
from backbone.network import Network
from backbone.sampling import Sampler, SamplingValues
from cloud.engine.engine import CloudEngine
from engine.torch.attention.sdpa import SdpaAttention
from engine.torch.kv.blocks import BlockPool, Span
from engine.torch.kv.kv_cache import KVCache
from engine.torch.kv_store import PagedStore
from engine.torch.memory import activation_bytes
from engine.torch.options import EngineOptions
from engine.torch.runner import Runner
from engine.torch.scheduler import Scheduler
from engine.torch.sequence import Sequence
from engine.torch.step import build_batch
from offload.pair import CLOUD_MODEL
from tests.cloud.golden import answer, ask, reference_tokens, tokens_of
from tests.tiny_checkpoints import write_checkpoint

BLOCK = 16


def blocks_of(num_tokens: int) -> tuple[int, int]:
    """Read a prompt in steps of 2048; return the blocks it holds, and the largest step."""
    pool = BlockPool(4096)
    store = PagedStore(pool, Span(block_size=BLOCK))
    planner = Scheduler(store, max_num_seqs=4, max_num_batched_tokens=2048)
    sampler = Sampler(SamplingValues(), seed=0)
    sequence = Sequence(list(range(num_tokens)), max_tokens=1, sampler=sampler)
    planner.add(sequence)
    largest = 0
    while sequence.num_pending:
        slices = planner.schedule()
        largest = max(largest, sum(slice_.num_tokens for slice_ in slices))
        planner.mark_computed(slices[0])
    planner.check_integrity()
    return len(sequence.blocks), largest


def test_blocks_grow_with_the_length_and_steps_do_not() -> None:
    for num_tokens in (4096, 8192, 16384, 32768):
        assert blocks_of(num_tokens) == (num_tokens // BLOCK, 2048)


def test_the_networks_own_memory_does_not_hang_on_the_context() -> None:
    config, options = NetworkConfig.load(CLOUD_MODEL), EngineOptions(device="cpu")
    assert activation_bytes(config, 128, options) == activation_bytes(config, 512, options)


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
    engine.batching.check_integrity()


CONFIG = NetworkConfig(
    model_type="llama",
    vocab_size=32,
    hidden_size=32,
    intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    max_position_embeddings=32768,
)


def peak_of(num_tokens: int, *, at_once: int) -> int:
    """Read a prompt on the torch backend; return the most bytes its steps held beside the cache."""
    torch.manual_seed(0)
    network = FusedNetwork(Network(CONFIG).requires_grad_(False), num_tokens)
    cpu = torch.device("cpu")
    cache = KVCache(CONFIG, num_tokens // BLOCK, BLOCK, device=cpu, dtype=torch.float32)
    lay_out = partial(build_batch, block_size=BLOCK, device=torch.device("cpu"))
    runner = Runner(network, SdpaAttention(CONFIG, cache), lay_out)
    pool = BlockPool(num_tokens // BLOCK)
    store = PagedStore(pool, Span(block_size=BLOCK))
    planner = Scheduler(store, max_num_seqs=1, max_num_batched_tokens=at_once)
    prompt = [token % 32 for token in range(num_tokens)]
    planner.add(Sequence(prompt, max_tokens=1, sampler=Sampler(SamplingValues(), seed=0)))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        while planner.waiting or planner.running[0].num_pending:
            slices = planner.schedule()
            runner.step(slices)
            planner.mark_computed(slices[0])
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


@pytest.mark.parametrize("at_once", [256, 8192], ids=["in pieces", "in one step"])
def test_memory_of_a_prompt_grows_with_its_length_and_not_its_square(at_once: int) -> None:
    short, middle, long = (peak_of(length, at_once=at_once) for length in (1024, 2048, 4096))
    # A square would add four times as much for each doubling.
    assert long - middle < 2.5 * (middle - short)
    assert long < 4.5 * short


@pytest.mark.slow
def test_32k_tokens_take_four_times_the_memory_of_8k() -> None:
    short, long = (peak_of(length, at_once=2048) for length in (8192, 32768))
    assert long < 4.2 * short
