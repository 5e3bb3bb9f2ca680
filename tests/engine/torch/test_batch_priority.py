"""Batch work takes the steps that no reader needs, and gives them back at once."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from cloud.engine.engine import CloudEngine
from engine.torch.kv.blocks import BlockPool, Span
from engine.torch.kv_store import PagedStore
from engine.torch.options import EngineOptions
from engine.torch.scheduler import Scheduler
from engine.torch.sequence import QueueLane, Sequence
from engine.torch.step import Slice
from engine.torch.waiting_queue import WaitingQueue
from offload.messages import Delta
from offload.priority import prioritized
from tests.cloud.golden import answer, ask, tokens_of
from tests.engine.torch.test_scheduler import BLOCK, compute, scheduler, sequence
from tests.tiny_checkpoints import write_checkpoint

BATCH, READER = QueueLane("a", True), QueueLane("a", False)


def step(planner: Scheduler) -> list[Sequence]:
    """Compute one step, and return who took part."""
    slices = planner.schedule()
    compute(planner, slices)
    planner.check_integrity()
    return [slice_.sequence for slice_ in slices]


def test_readers_come_before_batch_work_that_waits_longer() -> None:
    waiting, batch, reader = WaitingQueue(), sequence(3, lane=BATCH), sequence(3, lane=READER)
    waiting.add(batch)
    waiting.add(reader)
    assert waiting.next() is reader
    waiting.take(reader)
    assert waiting.next() is batch
    waiting.take(batch)
    waiting.put_first(batch)  # even where it had to give way
    waiting.add(sequence(3, lane=READER))
    assert waiting.next() is not batch


def test_the_batch_work_of_a_device_is_not_held_against_what_it_reads() -> None:
    waiting, batch = WaitingQueue(), sequence(3, lane=BATCH)
    waiting.add(batch)
    waiting.charge(batch, 10_000, 0)
    other, own = sequence(3, lane=QueueLane("b")), sequence(3, lane=READER)
    waiting.add(other)
    waiting.charge(other, 10, 0)
    waiting.add(own)
    assert waiting.priority(own) == waiting.priority(other)


def test_batch_work_rests_while_a_reader_reads_and_goes_on_behind_it() -> None:
    planner = scheduler()
    batch = [sequence(5, first=100 * n, lane=BATCH) for n in range(3)]
    for each in batch:
        planner.add(each)
    assert step(planner) == batch
    reader = sequence(5, first=900, lane=READER)
    planner.add(reader)
    assert [step(planner) for _ in range(3)] == [[reader]] * 3
    planner.add(sequence(5, first=700, lane=BATCH))
    assert step(planner) == [reader], "and none is let in beside it"
    planner.remove(reader)
    assert step(planner)[:3] == batch
    assert planner.num_preemptions == 0, "nothing of it had to be computed again"


def test_as_much_batch_work_runs_beside_readers_as_is_allowed() -> None:
    planner = Scheduler(
        PagedStore(BlockPool(64), Span(block_size=BLOCK)),
        max_num_seqs=8,
        max_num_batched_tokens=32,
        batch_tokens_beside_readers=4,
    )
    planner.add(sequence(5, lane=READER))
    planner.add(sequence(20, first=100, lane=BATCH))
    slices = planner.schedule()
    assert [s.num_tokens for s in slices] == [5, 4]


def test_batch_work_makes_way_where_all_places_are_taken() -> None:
    planner = scheduler(seqs=3)
    batch = [sequence(3, first=100 * n, lane=BATCH) for n in range(3)]
    for each in batch:
        planner.add(each)
    step(planner)
    readers = [sequence(3, first=500 + 100 * n, lane=READER) for n in range(2)]
    for each in readers:
        planner.add(each)
    assert step(planner) == readers, "both, though they are of one device"
    assert [each in planner.running for each in batch] == [True, False, False]


def test_batch_work_makes_way_where_all_memory_is_taken() -> None:
    planner = scheduler(num_blocks=6)
    batch = [sequence(2 * BLOCK, first=100 * n, lane=BATCH) for n in range(2)]
    for each in batch:
        planner.add(each)
    step(planner)
    reader = sequence(5 * BLOCK, first=900, lane=READER)
    planner.add(reader)
    assert step(planner) == [reader] and planner.running == [reader]


def test_a_reader_never_makes_way_for_batch_work() -> None:
    planner = scheduler(num_blocks=4, seqs=2)
    reader = sequence(3 * BLOCK, lane=READER)
    planner.add(reader)
    step(planner)
    planner.add(sequence(2 * BLOCK, first=100, lane=BATCH))
    for _ in range(3):
        assert step(planner) == [reader]
    assert planner.num_preemptions == 0


@pytest.mark.parametrize("overlapped", [False, True], ids=["plain", "overlapped"])
async def test_answers_are_the_same_and_no_step_of_a_reader_has_batch_work(
    overlapped: bool, tmp_path: Path
) -> None:
    folder = write_checkpoint(tmp_path, "qwen3-tied")
    options = EngineOptions(
        device="cpu",
        block_size=8,
        num_gpu_blocks_override=24,
        max_num_seqs=4,
        async_scheduling=overlapped,
        num_speculative_tokens=0,
        response_cache_size=0,
    )
    engine = CloudEngine(folder, options=options)
    planned: list[list[QueueLane]] = []
    schedule = engine.scheduler.schedule

    def noted() -> list[Slice]:
        slices = schedule()
        planned.append([slice_.sequence.lane for slice_ in slices])
        return slices

    engine.scheduler.schedule = noted  # type: ignore[method-assign]
    requests = [ask(f"line {n} of the batch", max_tokens=20) for n in range(12)]
    alone = [tokens_of((await answer(engine, each))[0]) for each in requests]
    planned.clear()
    with prioritized("batch"):
        batch = [asyncio.create_task(answer(engine, each)) for each in requests]
        first = engine.generate(requests[0])
        assert isinstance(await anext(first), Delta), "it has begun"
        await first.aclose()
    read = await asyncio.gather(*(answer(engine, ask("the cat", max_tokens=20)) for _ in range(3)))
    done = [tokens_of(deltas) for deltas, _ in await asyncio.gather(*batch)]
    await engine.aclose()
    assert done == alone and all(finish.error is None for _, finish in read)
    mixed = [lanes for lanes in planned if len({lane.is_batch for lane in lanes}) > 1]
    assert not mixed and any(lanes and lanes[0].is_batch for lanes in planned)
