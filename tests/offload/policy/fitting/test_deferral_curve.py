from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offload.errors import RequestError
from offload.policy.fitting.deferral_curve import (
    Outcomes,
    auroc,
    ceilings,
    deferral_curve,
    ece,
    figures,
    intervals,
)
from offload.policy.serving.features import Floats


def _made(num_rows: int = 400, seed: int = 0) -> Outcomes:
    generator = np.random.default_rng(seed)
    weak = (generator.random(num_rows) < 0.6).astype(np.float64)
    return Outcomes(weak, (generator.random(num_rows) < 0.9).astype(np.float64))


tables = st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 5)), min_size=1).filter(
    lambda rows: sum(far - near for near, far, _ in rows) > 0
)


def _table(rows: list[tuple[bool, bool, int]]) -> tuple[Outcomes, Floats]:
    near, far, scores = np.array(rows, dtype=np.float64).T
    return Outcomes(near, far), scores


def test_random_scores_have_half_the_area_on_average() -> None:
    truth, generator = _made(), np.random.default_rng(1)
    areas = [deferral_curve(generator.random(400), truth).apgr for _ in range(400)]
    assert np.mean(areas) == pytest.approx(0.5, abs=float(3 * np.std(areas) / 20))


@given(tables)
def test_equal_scores_are_exactly_random(rows: list[tuple[bool, bool, int]]) -> None:
    truth, _ = _table(rows)
    curve = deferral_curve(np.zeros(len(rows)), truth)
    assert curve.apgr == pytest.approx(0.5)
    assert curve.cpt(0.8) == pytest.approx(0.8)


@given(tables)
def test_no_score_passes_the_oracle(rows: list[tuple[bool, bool, int]]) -> None:
    truth, scores = _table(rows)
    oracle = ceilings(truth)["oracle"]
    assert deferral_curve(scores, truth).apgr <= oracle.apgr + 1e-9
    assert deferral_curve(scores, truth).cpt(0.5) >= oracle.cpt(0.5) - 1e-9


def test_the_oracle_is_the_value_worked_out_by_hand() -> None:
    # gains +1 +1 0 -1: up to 2 at half, flat, down to 1 -> recovered 0 1 2 2 1
    truth = Outcomes(np.array([0.0, 0.0, 1.0, 1.0]), np.array([1.0, 1.0, 1.0, 0.0]))
    oracle = ceilings(truth)["oracle"]
    assert oracle.apgr == pytest.approx((0.5 + 1.5 + 2.0 + 1.5) / 4.0)
    assert oracle.cpt(0.5) == pytest.approx(0.125)
    assert ceilings(truth)["random"].apgr == pytest.approx(0.5)


@given(tables, st.randoms(use_true_random=False))
def test_the_order_of_rows_changes_nothing(
    rows: list[tuple[bool, bool, int]], random: Random
) -> None:
    truth, scores = _table(rows)
    shuffled = list(rows)
    random.shuffle(shuffled)
    other, other_scores = _table(shuffled)
    expected = figures(deferral_curve(scores, truth))
    assert figures(deferral_curve(other_scores, other)) == pytest.approx(expected)


def test_a_tie_is_the_average_over_random_orders() -> None:
    truth, generator = _made(60), np.random.default_rng(2)
    scores = generator.integers(0, 3, 60).astype(np.float64)
    broken = [deferral_curve(scores + 1e-3 * generator.random(60), truth).apgr for _ in range(3000)]
    exact = deferral_curve(scores, truth).apgr
    assert exact == pytest.approx(np.mean(broken), abs=float(4 * np.std(broken) / 3000**0.5))


@given(tables)
def test_monotone_transforms_change_nothing(rows: list[tuple[bool, bool, int]]) -> None:
    truth, scores = _table(rows)
    expected = figures(deferral_curve(scores, truth))
    assert figures(deferral_curve(np.exp(3.0 * scores) - 7.0, truth)) == expected
    assert auroc(scores, truth.weak) == auroc(scores**3, truth.weak)


def test_auroc_counts_ties_half() -> None:
    assert auroc(np.array([1.0, 2.0, 3.0]), np.array([0.0, 1.0, 1.0])) == 1.0
    assert auroc(np.array([1.0, 1.0]), np.array([0.0, 1.0])) == 0.5
    assert auroc(np.array([2.0, 1.0, 1.0]), np.array([0.0, 1.0, 0.0])) == 0.25
    assert auroc(np.array([2.0, 1.0]), np.array([1.0, 1.0])) == 0.5


def test_ece_is_zero_when_what_is_said_happens() -> None:
    happened = np.tile([1.0, 0.0, 0.0, 0.0], 75)
    assert ece(np.full(300, 0.25), happened, num_bins=15) == pytest.approx(0.0, abs=1e-12)
    assert ece(np.full(300, 0.95), happened, num_bins=15) == pytest.approx(0.7)


def test_intervals_hold_the_figure_and_shrink_with_more_rows() -> None:
    widths = []
    for num_rows in (200, 3200):
        truth = _made(num_rows)
        scores = 1.0 - truth.weak + np.random.default_rng(0).random(num_rows)
        low, high = intervals(scores, truth, resamples=200)["apgr"]
        assert low < deferral_curve(scores, truth).apgr < high
        widths.append(high - low)
    assert widths[1] < widths[0] / 2


def test_outcomes_without_a_gain_and_scores_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(RequestError, match="nothing to gain"):
        Outcomes(np.ones(3), np.ones(3))
    with pytest.raises(RequestError, match="at least one"):
        Outcomes(np.ones(0), np.ones(0))
    with pytest.raises(RequestError, match="finite"):
        deferral_curve(np.array([np.nan] * 400), _made())
