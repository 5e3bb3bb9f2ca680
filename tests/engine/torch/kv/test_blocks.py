"""Blocks are neither lost nor shared by mistake, whatever the order of events."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from backbone.sampling import Sampler, SamplingValues
from engine.torch.kv.blocks import ROOT, BlockPool, chain_hash
from engine.torch.sequence import Sequence

NAMES = [chain_hash(ROOT, (i,)) for i in range(8)]


def sequence(tokens: list[int]) -> Sequence:
    return Sequence(tokens, max_tokens=4, sampler=Sampler(SamplingValues(), seed=0))


def test_allocated_blocks_are_distinct_and_neighbours() -> None:
    pool = BlockPool(8)
    first = pool.allocate(3)
    assert first == [0, 1, 2]
    assert pool.allocate(2, after=first[-1]) == [3, 4]
    assert pool.num_free == 3


def test_a_released_block_is_reusable() -> None:
    pool = BlockPool(2)
    pool.release(pool.allocate(2))
    assert sorted(pool.allocate(2)) == [0, 1]


def test_a_block_released_twice_is_a_broken_invariant() -> None:
    pool = BlockPool(2)
    blocks = pool.allocate(1)
    pool.release(blocks)
    with pytest.raises(AssertionError, match="released twice"):
        pool.release(blocks)


def test_a_named_block_is_found_after_its_release() -> None:
    pool = BlockPool(4)
    blocks = pool.allocate(2)
    for block, name in zip(blocks, NAMES, strict=False):
        pool.name(block, name)
    pool.release(blocks)
    assert pool.find(NAMES) == blocks
    assert pool.num_free == 4
    pool.hold(blocks)
    assert pool.num_free == 2
    pool.check_integrity([blocks])


def test_a_chain_is_found_only_up_to_its_first_gap() -> None:
    pool = BlockPool(4)
    blocks = pool.allocate(2)
    pool.name(blocks[0], NAMES[0])
    pool.name(blocks[1], NAMES[2])
    assert pool.find(NAMES) == blocks[:1]


def test_blocks_without_content_are_used_before_a_cached_prefix_is_lost() -> None:
    pool = BlockPool(3)
    cached = pool.allocate(1)
    pool.name(cached[0], NAMES[0])
    pool.release(cached)
    pool.release(pool.allocate(2))
    pool.allocate(2)
    assert pool.find(NAMES) == cached


def test_the_longest_unused_prefix_is_lost_first() -> None:
    pool = BlockPool(2)
    blocks = pool.allocate(2)
    for block, name in zip(blocks, NAMES, strict=False):
        pool.name(block, name)
    pool.release(blocks[:1])
    pool.release(blocks[1:])
    pool.allocate(1)
    assert (pool.find(NAMES[:1]), pool.find(NAMES[1:2])) == ([], blocks[1:])


def test_the_tail_of_a_sequence_is_lost_before_its_head() -> None:
    pool = BlockPool(3)
    blocks = pool.allocate(3)
    for block, name in zip(blocks, NAMES, strict=False):
        pool.name(block, name)
    pool.release(blocks)
    pool.allocate(1)
    assert pool.find(NAMES) == blocks[:2]


def test_prefix_caching_can_be_switched_off() -> None:
    pool = BlockPool(2, enable_prefix_caching=False)
    blocks = pool.allocate(1)
    pool.name(blocks[0], NAMES[0])
    assert pool.find(NAMES) == []


def test_equal_content_keeps_the_first_block() -> None:
    pool = BlockPool(2)
    first, second = pool.allocate(2)
    pool.name(first, NAMES[0])
    pool.name(second, NAMES[0])
    assert pool.find(NAMES[:1]) == [first]
    pool.check_integrity([[first, second]])


def test_a_name_covers_all_tokens_before_it() -> None:
    a = sequence([1, 2, 3, 4]).block_names(2, 2)
    b = sequence([9, 2, 3, 4]).block_names(2, 2)
    assert a[0] != b[0] and a[1] != b[1]
    assert sequence([1, 2, 3, 4, 5]).block_names(2, 2) == a


def test_a_leak_is_noticed() -> None:
    pool = BlockPool(4)
    pool.allocate(1)
    with pytest.raises(AssertionError, match="1 holders, 0 in tables"):
        pool.check_integrity([])


class Pool(RuleBasedStateMachine):
    """Random holders against the invariants."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(12)
        self.tables: list[list[int]] = []

    @rule(count=st.integers(1, 4), start=st.integers(0, 7))
    def start(self, count: int, start: int) -> None:
        found = self.pool.find(NAMES[start : start + count])
        fresh = count - len(found)
        if self.pool.num_free < fresh + self.pool.num_idle(found):
            return
        self.pool.hold(found)
        table = found + self.pool.allocate(fresh)
        for block, name in zip(table, NAMES[start:], strict=False):
            self.pool.name(block, name)
        self.tables.append(table)

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        at = data.draw(st.integers(0, len(self.tables) - 1))
        self.pool.release(self.tables.pop(at))

    @invariant()
    def whole(self) -> None:
        self.pool.check_integrity(self.tables)


TestPool = Pool.TestCase
TestPool.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
