from __future__ import annotations

import pytest

from engine.draft_gate import KNOWN_STEPS, LASTING, TOKEN_COST, StepTimes


def _times(**ratios: float) -> StepTimes:
    times = StepTimes()
    for _ in range(KNOWN_STEPS):
        times.add(1, 2.0)
    for size, ratio in ratios.items():
        times.add(int(size[1:]), 2.0 * ratio)
    return times


def test_what_is_not_measured_lies_on_a_line() -> None:
    times = _times(n5=2.0, n9=3.0)
    assert [times.ratio(n) for n in (1, 3, 5, 7, 9)] == pytest.approx([1, 1.5, 2, 2.5, 3])
    assert times.ratio(17) == pytest.approx(5.0), "with the slope from one token on"


def test_before_anything_is_measured_it_is_guessed() -> None:
    assert StepTimes().ratio(3) == pytest.approx(1 + 2 * TOKEN_COST)
    assert not StepTimes().known


def test_more_tokens_are_never_expected_to_take_less() -> None:
    times = _times(n5=3.0, n9=2.0)
    assert times.ratio(9) >= times.ratio(7) >= times.ratio(5) == pytest.approx(3.0)


def test_a_load_of_others_changes_no_ratio() -> None:
    times = _times(n5=2.0)
    for _ in range(100):
        times.add(1, 6.0)
        times.add(5, 12.0)
    assert times.ratio(5) == pytest.approx(2.0, rel=0.2)
    assert times.plain.value() == pytest.approx(6.0, rel=0.01)


def test_a_step_in_which_the_machine_slept_says_nothing() -> None:
    times = _times(n5=2.0)
    times.add(1, 3600.0)
    times.add(5, 3600.0)
    assert times.plain.value() == pytest.approx(2.0) and times.ratio(5) == pytest.approx(2.0)


def test_what_was_not_measured_for_long_is_measured_anew() -> None:
    times = _times(n8=9.0)
    for _ in range(LASTING + 1):
        times.add(1, 2.0)
    assert times.ratio(8) == pytest.approx(1 + 7 * TOKEN_COST)
