"""Behind a window nothing is kept, and nothing but the sinks is seen."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from backbone.attention import causal_attention
from backbone.checkpoint import load_network
from backbone.config import NetworkConfig
from backbone.sampling import Sampler, SamplingValues
from backbone.tokenizer import Tokenizer
from cloud.engine.engine import CloudEngine
from engine.torch.kv.blocks import BlockPool, Span
from engine.torch.kv_store import PagedStore
from engine.torch.options import EngineOptions
from engine.torch.scheduler import Scheduler
from engine.torch.sequence import FREED, Sequence
from offload.errors import SettingsError
from tests.cloud.golden import answer, ask, tokens_of
from tests.engine.torch.test_scheduler import pool_of
from tests.tiny_checkpoints import write_checkpoint

BLOCK = 4


def planner_with(
    window: int | None, num_sinks: int = 0, *, tokens: int = 8, num_blocks: int = 64
) -> Scheduler:
    return Scheduler(
        PagedStore(
            BlockPool(num_blocks), Span(block_size=BLOCK, window=window, num_sinks=num_sinks)
        ),
        max_num_seqs=8,
        max_num_batched_tokens=tokens,
    )


def sequence(num_tokens: int, first: int = 0) -> Sequence:
    sampler = Sampler(SamplingValues(), seed=0)
    return Sequence(list(range(first, first + num_tokens)), max_tokens=100, sampler=sampler)


def step(planner: Scheduler) -> None:
    for slice_ in planner.schedule():
        completes = slice_.completes
        planner.mark_computed(slice_)
        if completes:
            slice_.sequence.append(7)
    planner.check_integrity()


@given(
    window=st.integers(1, 20),
    num_sinks=st.integers(0, 9),
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=3),
    tokens=st.integers(1, 17),
)
@settings(max_examples=40, deadline=None)
def test_what_the_next_token_sees_is_held_and_nothing_else(
    window: int, num_sinks: int, lengths: list[int], tokens: int
) -> None:
    planner = planner_with(window, num_sinks, tokens=tokens)
    running = [sequence(length, 100 * i) for i, length in enumerate(lengths)]
    for each in running:
        planner.add(each)
    for _ in range(30):
        step(planner)
        for each in running:
            for at, block in enumerate(each.blocks):
                places = range(at * BLOCK, (at + 1) * BLOCK)
                sinks = places[0] < num_sinks
                seen = places[-1] > each.num_computed - window
                assert (block != FREED) == (sinks or seen), (at, each.num_computed)
    for each in running:
        planner.remove(each)
    planner.check_integrity()
    assert pool_of(planner).num_free == 64


def test_one_layer_that_sees_all_keeps_all() -> None:
    planner = planner_with(None)
    one = sequence(40)
    planner.add(one)
    for _ in range(20):
        step(planner)
    assert FREED not in one.blocks


def test_a_prefix_behind_the_window_is_found_by_the_next() -> None:
    planner = planner_with(6, tokens=64)
    first = sequence(32)
    planner.add(first)
    step(planner)
    assert first.blocks.count(FREED) == 6
    second = sequence(32)
    planner.add(second)
    step(planner)
    assert second.num_cached_tokens == 28


def test_a_long_prompt_is_read_in_the_blocks_of_its_window_and_a_step() -> None:
    # 15 tokens behind and 32 new ones, from anywhere in a block on, and a block of sinks.
    planner = planner_with(16, 2, tokens=32, num_blocks=14)
    one = sequence(32_768)
    planner.add(one)
    most = 0
    while one.num_pending > 1 or not one.num_computed:
        step(planner)
        most = max(most, len(one.held_blocks))
    assert one.num_computed == 32_768 and planner.num_preemptions == 0
    assert most <= 5  # after each step: a block of sinks, and those of the window


def test_a_long_prefix_is_found_without_holding_what_is_behind_the_window() -> None:
    planner = planner_with(6, tokens=8, num_blocks=16)
    first, second = sequence(60), sequence(60)
    planner.add(first)
    while first.num_computed < 60:
        step(planner)
    planner.remove(first)
    planner.add(second)
    step(planner)
    assert second.num_cached_tokens == 56 and len(second.held_blocks) <= 3


@given(
    lengths=st.lists(st.integers(1, 120), min_size=1, max_size=8),
    window=st.none() | st.integers(1, 24),
    num_sinks=st.integers(0, 9),
    tokens=st.integers(1, 20),
    spare=st.integers(0, 12),
    answer_len=st.integers(1, 12),
    shared=st.booleans(),
)
@settings(max_examples=80, deadline=None)
def test_long_and_short_prompts_are_all_served_whatever_slides(
    lengths: list[int],
    window: int | None,
    num_sinks: int,
    tokens: int,
    spare: int,
    answer_len: int,
    shared: bool,
) -> None:
    span = Span(block_size=BLOCK, window=window, num_sinks=num_sinks)
    # As the engine's own cache: room for the longest alone, and little more.
    num_blocks = span.most_at_once(max(lengths) + answer_len, tokens) + spare
    planner = planner_with(window, num_sinks, tokens=tokens, num_blocks=num_blocks)
    left = {sequence(length, 0 if shared else 1000 * i) for i, length in enumerate(lengths)}
    for each in left:
        planner.add(each)
    for _ in range(20_000):
        slices = planner.schedule()
        assert slices, "the queue is stuck"
        for slice_ in slices:
            needed = range(max(0, slice_.start - (window or 10**9) + 1), slice_.start)
            table = slice_.sequence.blocks
            assert all(table[at // BLOCK] != FREED for at in needed)
            assert all(table[at // BLOCK] != FREED for at in range(num_sinks)[: slice_.start])
            completes = slice_.completes
            planner.mark_computed(slice_)
            if completes:
                slice_.sequence.append(7)
        for ended in [each for each in left if each.num_generated >= answer_len]:
            planner.remove(ended)
            left.discard(ended)
        planner.check_integrity()
        if not left:
            break
    assert not left and pool_of(planner).num_free == num_blocks


def greedy(folder: Path, config: NetworkConfig, prompt: list[int], count: int) -> list[int]:
    """Return the greedy answer of the plain network, windows and sinks as in `config`."""
    network = load_network(folder)
    attend = causal_attention(config)
    tokens = list(prompt)
    with torch.inference_mode():
        for _ in range(count):
            ids = torch.tensor(tokens)
            hidden = network(ids, torch.arange(len(tokens)), attend)
            tokens.append(int(network.logits(hidden[-1:]).argmax()))
    return tokens[len(prompt) :]


@pytest.mark.parametrize(
    ("family", "window", "num_sinks"),
    [("mistral-window", 0, 2), ("qwen3-tied", 10, 0), ("qwen3-tied", 10, 4), ("qwen2", 5, 1)],
)
@pytest.mark.parametrize("caching", [True, False])
async def test_the_engine_attends_as_the_plain_network_with_that_window(
    family: str, window: int, num_sinks: int, caching: bool, tmp_path: Path
) -> None:
    folder = write_checkpoint(tmp_path, family)
    options = EngineOptions(
        device="cpu",
        attention_window=window,
        attention_sinks=num_sinks,
        block_size=3,
        max_num_batched_tokens=7,
        enable_prefix_caching=caching,
        response_cache_size=0,
    )
    config = options.as_run(NetworkConfig.load(folder))
    prompt = "what is seventeen plus twenty-five"
    ends = Tokenizer(folder).eos_token_ids
    expected = greedy(folder, config, Tokenizer(folder).encode(prompt), 25)
    if found := [i for i, token in enumerate(expected) if token in ends]:
        expected = expected[: found[0]]
    engine = CloudEngine(folder, options=options)
    for _ in range(2):  # the second time from the prefix cache
        deltas, _ = await answer(engine, ask(prompt, max_tokens=25))
        assert tokens_of(deltas) == expected
    await engine.aclose()
    engine.batching.check_integrity()


def test_the_window_asked_for_never_widens_the_models_own(tmp_path: Path) -> None:
    config = NetworkConfig.load(write_checkpoint(tmp_path, "gemma3-some-windows"))
    narrow, wide = (EngineOptions(device="cpu", attention_window=n).as_run(config) for n in (5, 20))
    assert narrow.windows() == [5, 5, 5] and wide.windows() == [8, 20, 8]
    # A layer turns as it was trained to, whatever it sees.
    assert [wide.rope_base(layer) for layer in range(3)] == [1, 0, 1]


def test_sinks_without_a_window_are_refused(tmp_path: Path) -> None:
    config = NetworkConfig.load(write_checkpoint(tmp_path, "qwen3"))
    with pytest.raises(SettingsError, match=r"attention_sinks is 4 and no layer .* has a window"):
        EngineOptions(device="cpu", attention_sinks=4).as_run(config)
    both = EngineOptions(device="cpu", attention_window=8, attention_sinks=4)
    assert both.as_run(config).windows() == [8, 8, 8]
