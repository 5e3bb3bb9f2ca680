"""Drafts that must never slow an answer down, on clocks that the tests tell."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from engine.draft_gate import REFRESH, TRIAL_STEPS, DraftGate
from engine.drafts import GatedDrafter

Cost = Callable[[int], tuple[float, int]]  # from the token's place to a drafted step's s and tokens


def ratio(gate: DraftGate, cost: Cost, *, num_tokens: int, plain_s: float = 1.0) -> float:
    """Return the time without drafts over that with them."""
    seconds, written = 0.0, 0
    while written < num_tokens:
        if gate.wanted():
            took, tokens = cost(written)
            gate.drafted(took, tokens)
        else:
            took, tokens = plain_s, 1
            gate.plain(took)
        seconds += took
        written += tokens
    return written * plain_s / seconds


@pytest.mark.parametrize("cost", [(1.2, 1), (2.5, 2), (3.0, 1), (2.2, 2)])
@pytest.mark.parametrize("num_tokens", [256, 1000, 10_000])
def test_drafts_that_do_not_pay_cost_less_than_three_per_cent(
    cost: tuple[float, int], num_tokens: int
) -> None:
    assert ratio(DraftGate(), lambda _: cost, num_tokens=num_tokens) >= 0.97


@pytest.mark.parametrize(("cost", "gain"), [((1.5, 3), 1.8), ((2.0, 3), 1.35), ((1.05, 4), 3.0)])
def test_drafts_that_pay_are_taken_from_the_start(cost: tuple[float, int], gain: float) -> None:
    assert ratio(DraftGate(), lambda _: cost, num_tokens=300) >= gain


def test_text_that_begins_to_repeat_is_drafted_again_soon() -> None:
    gate = DraftGate()
    assert ratio(gate, lambda _: (2.0, 1), num_tokens=2000) >= 0.97
    assert ratio(gate, lambda _: (1.5, 4), num_tokens=1000) >= 1.8


def test_text_that_ceases_to_repeat_loses_only_what_drafts_had_won() -> None:
    gate = DraftGate()
    won = ratio(gate, lambda _: (1.5, 3), num_tokens=1000)
    lost = ratio(gate, lambda _: (2.0, 1), num_tokens=1000)
    assert won > 1.8 and lost >= 0.92
    assert 2000 / (1000 / won + 1000 / lost) > 1.2


def test_no_answer_pays_for_drafts_with_the_time_that_others_saved_or_took() -> None:
    gate = DraftGate()
    for _ in range(20):
        gate.begin()
        assert ratio(gate, lambda _: (1.5, 4), num_tokens=400) > 1.8
        gate.begin()
        assert ratio(gate, lambda _: (2.0, 1), num_tokens=200) >= 0.975


def test_a_first_draft_that_fails_does_not_end_the_drafts_of_a_short_answer() -> None:
    """A summary: at each begin two copies are wrong, and then nearly all are right."""
    gate = DraftGate()
    ratio(gate, lambda _: (1.5, 4), num_tokens=600)
    for _ in range(6):
        gate.begin()
        drafts = iter([(2.5, 1), (2.5, 1)] + [(1.8, 5)] * 60)
        assert ratio(gate, lambda _, drafts=drafts: next(drafts), num_tokens=60) >= 1.5  # type: ignore[misc]


def test_answers_that_never_repeat_lose_no_more_together_than_each_of_them() -> None:
    gate = DraftGate()
    for _ in range(4):  # which drafts win on, so that there is credit
        gate.begin()
        ratio(gate, lambda _: (1.5, 4), num_tokens=200)
    ratios = []
    for _ in range(60):
        gate.begin()
        ratios.append(ratio(gate, lambda _: (2.5, 1), num_tokens=100))
    assert min(ratios) >= 0.95, "at most two steps more than its own share"
    assert sum(ratios[30:]) / 30 >= 0.98, "when what drafts had won is used up"


@pytest.mark.parametrize("seed", range(8))
def test_mixed_text_on_an_unsteady_machine_is_never_slowed(seed: int) -> None:
    rng = random.Random(seed)

    def cost(written: int) -> tuple[float, int]:
        repeats = written // 200 % 3 == 0
        tokens = rng.choice((1, 3, 4)) if repeats else rng.choice((1, 1, 2))
        return rng.uniform(1.4, 2.2), tokens

    assert ratio(DraftGate(), cost, num_tokens=3000) >= 0.97


def test_a_machine_that_slows_for_all_is_not_held_against_drafts() -> None:
    """What a step costs without is measured again, however well drafts do."""
    gate = DraftGate()
    ratio(gate, lambda _: (1.5, 3), num_tokens=300)
    slow = ratio(gate, lambda _: (4.5, 3), num_tokens=1500, plain_s=3.0)
    assert slow > 1.3


def test_now_and_then_a_step_without_a_draft_is_timed() -> None:
    gate, run = DraftGate(), 0
    for _ in range(4):
        gate.plain(1.0)
    while gate.wanted():
        gate.drafted(1.0, 4)
        run += 1
    assert run == REFRESH
    gate.plain(1.0)
    assert gate.wanted()


def test_nothing_is_drafted_before_it_is_known_what_that_would_save() -> None:
    gate = DraftGate()
    assert not gate.wanted()
    for _ in range(4):
        gate.plain(1.0)
    for _ in range(TRIAL_STEPS):
        assert gate.wanted()
        gate.drafted(5.0, 1)
    assert not gate.wanted()


def test_a_machine_that_slept_in_a_step_drafts_on() -> None:
    gate = DraftGate()
    for _ in range(20):
        gate.plain(1.0)
    for _ in range(60):
        gate.drafted(1.5, 4)
    gate.drafted(30_000.0, 4)
    gate.plain(30_000.0)
    for _ in range(40):
        gate.plain(1.0)
    assert gate.wanted()


def test_reading_for_a_draft_counts_as_its_cost() -> None:
    gate = DraftGate()
    for _ in range(4):
        gate.plain(1.0)
    for _ in range(TRIAL_STEPS):
        gate.drafted(0.9, 1)
    gate.wasted(20.0)
    assert not gate.wanted()
    waited = 0
    while not gate.wanted():
        gate.plain(1.0)
        waited += 1
    assert waited > 500


class Copier:
    """Proposes the same each time and remembers its verdicts."""

    def __init__(self) -> None:
        self.verdicts: list[tuple[int, int]] = []

    def add(self, token: int) -> None:
        pass

    def propose(self, limit: int) -> list[int]:
        return [1, 2, 3][:limit]

    def observe(self, num_proposed: int, num_accepted: int, seconds: float) -> None:
        self.verdicts.append((num_proposed, num_accepted))


def test_copies_are_verified_only_where_that_pays() -> None:
    """A copy is free, and the wider step that verifies it is not."""
    copier = Copier()
    paying = GatedDrafter(copier, DraftGate())
    drafts = 0
    for _ in range(400):
        draft = paying.propose(8)
        drafts += bool(draft)
        paying.observe(len(draft), 0, 2.5 if draft else 1.0)
    assert TRIAL_STEPS <= drafts <= TRIAL_STEPS + 5
    assert len(copier.verdicts) == 400


def test_steps_that_others_share_are_no_measure() -> None:
    gate = DraftGate()
    paying = GatedDrafter(Copier(), gate)
    for _ in range(50):
        assert paying.propose(0) == []
        paying.observe(0, 0, 9.0)
    assert not gate.wanted(), "not one step of its own has been timed"
