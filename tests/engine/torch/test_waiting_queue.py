"""Whose turn it is: nobody waits for ever, and no device waits because another asks much."""

from __future__ import annotations

from backbone.sampling import Sampler, SamplingValues
from engine.torch.kv.blocks import BlockPool, Span
from engine.torch.kv_store import PagedStore
from engine.torch.scheduler import Scheduler
from engine.torch.sequence import QueueLane, Sequence
from engine.torch.step import TokenBudget
from engine.torch.waiting_queue import WaitingQueue


def sequence(num_tokens: int = 4, device: str = "") -> Sequence:
    sampler = Sampler(SamplingValues(), seed=0)
    return Sequence([1] * num_tokens, max_tokens=9, sampler=sampler, lane=QueueLane(device))


def order(waiting: WaitingQueue, work: int = 10) -> list[Sequence]:
    """Take everybody, each doing as much work."""
    taken = []
    while (turn := waiting.next()) is not None:
        waiting.take(turn)
        waiting.charge(turn, work, 0)
        taken.append(turn)
    return taken


def test_one_device_is_served_in_order_of_arrival() -> None:
    waiting, everybody = WaitingQueue(), [sequence(n) for n in (9, 2, 5)]
    for each in everybody:
        waiting.add(each)
    assert order(waiting) == everybody and not waiting


def test_a_device_that_asks_much_does_not_hold_up_another() -> None:
    waiting = WaitingQueue()
    many, one = [sequence(device="a") for _ in range(5)], sequence(device="b")
    for each in (*many, one):
        waiting.add(each)
    assert order(waiting).index(one) == 1


def test_a_device_that_was_away_has_saved_up_no_claim() -> None:
    waiting = WaitingQueue()
    old = [sequence(device="a") for _ in range(3)]
    for each in old:
        waiting.add(each)
    waiting.take(old[0])
    waiting.charge(old[0], 1000, 0)
    newcomers = [sequence(device="b") for _ in range(3)]
    for each in newcomers:
        waiting.add(each)
    devices = [each.lane.device for each in order(waiting)]
    assert devices[:4] in (["a", "b", "a", "b"], ["b", "a", "b", "a"])


def test_the_books_of_a_device_are_closed_with_its_last_request() -> None:
    waiting, only = WaitingQueue(), sequence(device="a")
    waiting.add(only)
    waiting.charge(only, 5, 5)
    waiting.forget(only)
    assert not waiting and not waiting.num_lanes


def test_who_had_to_give_way_comes_first() -> None:
    waiting, new, returned = WaitingQueue(), sequence(), sequence()
    waiting.add(new)
    waiting.put_first(returned)
    assert waiting.next() is returned


def test_the_shortest_goes_first_but_nobody_waits_longer_than_the_bound() -> None:
    waiting = WaitingQueue(short_first_s=5.0)
    long, short = sequence(50), sequence(2)
    waiting.add(long)
    waiting.add(short)
    assert waiting.next() is short
    long.arrived_s -= 5.0
    assert waiting.next() is long


def test_a_scheduler_is_fair_between_devices() -> None:
    pool = BlockPool(64)
    planner = Scheduler(
        PagedStore(pool, Span(block_size=4)), max_num_seqs=2, max_num_batched_tokens=32
    )
    greedy = [sequence(device="a") for _ in range(6)]
    modest = sequence(device="b")
    for each in (*greedy, modest):
        planner.add(each)
    assert {slice_.sequence.lane.device for slice_ in planner.schedule()} == {"a", "b"}
    planner.check_integrity()


def test_a_step_is_cut_to_the_time_it_may_take() -> None:
    budget = TokenBudget(target_step_s=0.1)
    assert budget.limit(2048) == 2048  # nothing is known yet
    budget.observe(1000, 1.0)
    assert budget.limit(2048) == 100
    for _ in range(30):
        budget.observe(1000, 0.01)
    assert budget.limit(2048) == 2048
    budget.observe(1000, 1e6)
    assert budget.limit(2048) == 16


def test_without_a_target_a_step_takes_what_there_is() -> None:
    budget = TokenBudget(target_step_s=0.0)
    budget.observe(1000, 10.0)
    assert budget.limit(2048) == 2048


def crowd(num_seqs: int, *, num_blocks: int = 64) -> tuple[Scheduler, list[Sequence]]:
    """A scheduler whose places all have answers of one device, and more of it that wait."""
    scheduler = fair_scheduler(num_seqs, num_blocks=num_blocks)
    many = [sequence(device="a") for _ in range(3 * num_seqs)]
    for each in many:
        scheduler.add(each)
    step(scheduler)
    assert len(scheduler.running) == num_seqs
    return scheduler, many


def fair_scheduler(num_seqs: int, *, num_blocks: int = 64, budget: int = 64) -> Scheduler:
    return Scheduler(
        PagedStore(BlockPool(num_blocks), Span(block_size=4)),
        max_num_seqs=num_seqs,
        max_num_batched_tokens=budget,
    )


def step(scheduler: Scheduler) -> list[Sequence]:
    """Compute one step; who has read its prompt writes a token. Return who took part."""
    slices = scheduler.schedule()
    for slice_ in slices:
        if slice_.completes:
            slice_.sequence.append(1)
        scheduler.mark_computed(slice_)
    return [slice_.sequence for slice_ in slices]


def test_a_newcomer_is_in_the_very_next_step_though_another_holds_all_places() -> None:
    scheduler, many = crowd(4)
    newcomer = sequence(device="b")
    scheduler.add(newcomer)
    assert newcomer in step(scheduler)
    held = [each.lane.device for each in scheduler.running]
    assert sorted(held) == ["a", "a", "a", "b"]
    scheduler.check_integrity()
    # Who made way goes on before what its own device asked later.
    scheduler.remove(many[0])
    assert many[3] in step(scheduler)


def test_a_newcomer_is_let_in_though_another_holds_all_memory() -> None:
    scheduler, _ = crowd(8, num_blocks=9)
    newcomer = sequence(num_tokens=4, device="b")
    scheduler.add(newcomer)
    assert newcomer in step(scheduler)
    scheduler.check_integrity()


def test_nobody_makes_way_within_its_own_device_or_for_one_that_runs_already() -> None:
    scheduler, _ = crowd(4)
    scheduler.add(sequence(device="b"))
    step(scheduler)
    before = scheduler.num_preemptions
    for device in ("a", "b", "b"):
        scheduler.add(sequence(device=device))
    for _ in range(3):
        step(scheduler)
    assert scheduler.num_preemptions == before == 1


def test_a_newcomers_prompt_is_read_before_the_rest_of_anothers() -> None:
    scheduler = fair_scheduler(8, num_blocks=1024, budget=32)
    for _ in range(4):
        scheduler.add(sequence(num_tokens=500, device="a"))
    step(scheduler)
    newcomer = sequence(num_tokens=20, device="b")
    scheduler.add(newcomer)
    step(scheduler)
    assert newcomer.num_generated == 1, "2,000 tokens of another wait for their next step"
