"""Every sequence gets its tokens in the end, within the budget, whatever happens to it."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backbone.sampling import Sampler, SamplingValues
from engine.torch.kv.blocks import BlockPool, Span
from engine.torch.kv_store import PagedStore
from engine.torch.scheduler import Scheduler
from engine.torch.sequence import QueueLane, Sequence
from engine.torch.step import Slice

BLOCK = 4
READER = QueueLane()


def scheduler(num_blocks: int = 64, *, seqs: int = 8, tokens: int = 32) -> Scheduler:
    store = PagedStore(BlockPool(num_blocks), Span(block_size=BLOCK))
    return Scheduler(store, max_num_seqs=seqs, max_num_batched_tokens=tokens)


def pool_of(planner: Scheduler) -> BlockPool:
    assert isinstance(planner.store, PagedStore)
    return planner.store.pool


def sequence(
    num_tokens: int, *, first: int = 0, deadline_s: float = float("inf"), lane: QueueLane = READER
) -> Sequence:
    tokens = list(range(first, first + num_tokens))
    sampler = Sampler(SamplingValues(), seed=0)
    return Sequence(tokens, max_tokens=100, sampler=sampler, deadline_s=deadline_s, lane=lane)


def compute(planner: Scheduler, slices: list[Slice], token: int = 7) -> None:
    """Do what a step does: count tokens as computed, and choose the next where all are."""
    for slice_ in slices:
        completes = slice_.completes
        planner.mark_computed(slice_)
        if completes:
            slice_.sequence.append(token)


def shape(slices: list[Slice]) -> list[tuple[int, int]]:
    return [(s.sequence.num_prompt_tokens, s.num_tokens) for s in slices]


def test_a_long_prompt_is_computed_in_pieces_of_the_budget() -> None:
    planner = scheduler(tokens=10)
    planner.add(sequence(25))
    sizes = []
    for _ in range(4):
        slices = planner.schedule()
        sizes.append(slices[0].num_tokens)
        compute(planner, slices)
    assert sizes == [10, 10, 5, 1]


def test_answers_go_before_prompts() -> None:
    planner = scheduler(tokens=10)
    first, second = sequence(5), sequence(30, first=50)
    planner.add(first)
    compute(planner, planner.schedule())
    planner.add(second)
    assert shape(planner.schedule()) == [(5, 1), (30, 9)]


def test_a_running_prompt_does_not_hold_up_a_younger_answer() -> None:
    planner = scheduler(tokens=10)
    planner.add(sequence(4))
    planner.add(sequence(30, first=50))
    compute(planner, planner.schedule())
    assert shape(planner.schedule()) == [(4, 1), (30, 9)]


def test_no_more_than_max_num_seqs_run() -> None:
    planner = scheduler(seqs=2)
    for i in range(4):
        planner.add(sequence(3, first=10 * i))
    assert len(planner.schedule()) == 2
    assert len(planner.waiting) == 2


def test_arrival_decides_who_is_admitted() -> None:
    planner = scheduler(num_blocks=4)
    big, small = sequence(20), sequence(2)
    planner.add(big)
    planner.add(small)
    assert planner.schedule() == []  # the small one does not overtake
    planner.remove(big)
    assert shape(planner.schedule()) == [(2, 2)]


def test_a_known_prefix_is_not_computed_again() -> None:
    planner = scheduler()
    first = sequence(10)
    planner.add(first)
    compute(planner, planner.schedule())
    second = sequence(11)
    planner.add(second)
    slices = planner.schedule()
    assert [s.num_tokens for s in slices if s.sequence is second] == [3]
    assert second.blocks[:2] == first.blocks[:2] and second.num_cached_tokens == 8


def test_a_wholly_known_prompt_still_computes_its_last_token() -> None:
    planner = scheduler()
    first, second = sequence(8), sequence(8)
    planner.add(first)
    compute(planner, planner.schedule())
    planner.remove(first)
    planner.add(second)
    assert planner.schedule()[0].num_tokens == 4
    planner.check_integrity()


def test_the_youngest_is_preempted_and_comes_back_first() -> None:
    planner = scheduler(num_blocks=4)
    old, young, later = sequence(7), sequence(7, first=50), sequence(1)
    planner.add(old)
    planner.add(young)
    for _ in range(2):
        compute(planner, planner.schedule())
    planner.add(later)
    slices = planner.schedule()
    assert [s.sequence for s in slices] == [old]
    assert list(planner.waiting) == [young, later]
    assert (young.num_computed, young.blocks, planner.num_preemptions) == (0, [], 1)
    planner.check_integrity()


def test_a_preempted_sequence_computes_its_answer_again() -> None:
    planner = scheduler(num_blocks=8)
    planner.add(sequence(6))
    for _ in range(3):
        compute(planner, planner.schedule())
    running = planner.running[0]
    planner.preempt(running)
    planner.store = PagedStore(BlockPool(8), Span(block_size=BLOCK))  # nothing of it is cached
    assert planner.schedule()[0].num_tokens == len(running.tokens) == 9


@pytest.mark.parametrize("place", ["waiting", "running"])
def test_removing_frees_the_blocks(place: str) -> None:
    planner = scheduler()
    ended = sequence(10)
    planner.add(ended)
    if place == "running":
        planner.schedule()
    planner.remove(ended)
    assert pool_of(planner).num_free == 64
    assert planner.schedule() == []
    planner.check_integrity()


def test_expired_sequences_are_found_wherever_they_are() -> None:
    planner = scheduler(seqs=1)
    running, waiting = sequence(2, deadline_s=5.0), sequence(2, deadline_s=6.0)
    planner.add(running)
    planner.add(waiting)
    planner.schedule()
    assert planner.expired(4.9) == []
    assert planner.expired(6.0) == [running, waiting]


def test_the_budget_shrinks_down_to_one_token() -> None:
    planner = scheduler(tokens=32)
    assert [planner.shrink(5), planner.budget] == [True, 2]
    assert [planner.shrink(2), planner.shrink(1), planner.budget] == [True, False, 1]


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=12),
    num_blocks=st.integers(11, 30),
    tokens=st.integers(1, 20),
    seed=st.integers(0, 99),
)
def test_everyone_is_served_under_pressure(
    lengths: list[int], num_blocks: int, tokens: int, seed: int
) -> None:
    chance = random.Random(seed)
    planner = scheduler(num_blocks, seqs=5, tokens=tokens)
    wanted = {}
    for i, length in enumerate(lengths):
        lane = QueueLane(chance.choice("ab"), chance.random() < 0.4)
        one = sequence(length, first=chance.choice((0, 100 * i)), lane=lane)
        wanted[one] = chance.randint(1, 12)
        planner.add(one)
    for _ in range(4000):
        slices = planner.schedule()
        assert sum(s.num_tokens for s in slices) <= tokens
        for s in slices:
            assert len(s.sequence.blocks) * BLOCK >= s.sequence.num_computed + s.num_tokens
        assert slices or not wanted, "the queue is stuck"
        reads = any(not each.lane.is_batch for each in planner.running)
        assert not (reads and any(s.sequence.lane.is_batch for s in slices)), "a reader waits"
        compute(planner, slices, token=chance.randint(0, 5))
        for ended in [s for s in wanted if s.num_generated >= wanted[s]]:
            planner.remove(ended)
            del wanted[ended]
        planner.check_integrity()
        if not wanted:
            break
    assert not wanted
    assert pool_of(planner).num_free == num_blocks
