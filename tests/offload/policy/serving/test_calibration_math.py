"""Probabilities that rise with their score."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from offload.policy.fitting.deferral_curve import ece
from offload.policy.serving.calibration_math import (
    binomial_below,
    certified,
    fit_isotonic,
)

Rows = st.lists(st.tuples(st.floats(-10, 10), st.booleans()), min_size=1, max_size=60)


@example([(0.0, True)] * 4 + [(1.0, False), (3.0, True)], [0.0, 1.0])  # level but for rounding
@given(Rows, st.lists(st.floats(-20, 20), min_size=2, max_size=10))
def test_a_higher_score_never_has_a_lower_probability(
    rows: list[tuple[float, bool]], asked: list[float]
) -> None:
    curve = fit_isotonic([score for score, _ in rows], [right for _, right in rows])
    said = [curve(score) for score in sorted(asked)]
    assert said == sorted(said)
    assert all(0.0 < each < 1.0 for each in said)


def test_a_wrong_scale_is_mended() -> None:
    generator = np.random.default_rng(0)
    chance = generator.random(4000)
    happened = generator.random(4000) < chance
    scores = [float(each) ** 3 for each in chance]
    curve = fit_isotonic(scores[:2000], [bool(each) for each in happened[:2000]])
    said = np.array([curve(each) for each in scores[2000:]])
    truth = happened[2000:].astype(float)
    assert ece(said, truth) < 0.05 < ece(np.array(scores[2000:]), truth)


def test_one_class_gives_one_level_short_of_certainty() -> None:
    curve = fit_isotonic([1.0, 2.0, 3.0], [True, True, True])
    assert curve(-5.0) == curve(9.0) == 3.5 / 4.0


@pytest.mark.parametrize(("wrong", "number", "share"), [(0, 10, 0.2), (3, 20, 0.1), (9, 10, 0.5)])
def test_the_binomial_tail_is_exact(wrong: int, number: int, share: float) -> None:
    exact = sum(
        math.comb(number, k) * share**k * (1 - share) ** (number - k) for k in range(wrong + 1)
    )
    assert binomial_below(wrong, number, share) == pytest.approx(exact)


def test_a_perfect_model_is_kept_whole_and_a_bad_one_not_at_all() -> None:
    scores = [float(i) for i in range(300)]
    assert certified(scores, [True] * 300, alpha=0.05, delta=0.05) == 0.0
    assert certified(scores, [False] * 300, alpha=0.05, delta=0.05) is None
    assert certified(scores[:20], [True] * 20, alpha=0.05, delta=0.05) is None
    assert certified(scores, [True] * 300, alpha=0.0, delta=0.05) is None


@pytest.mark.parametrize("alpha", [0.05, 0.2, 0.5])
def test_the_promise_is_broken_no_more_often_than_delta(alpha: float) -> None:
    generator, delta, broken, draws = np.random.default_rng(3), 0.1, 0, 300
    for _ in range(draws):
        scores = generator.random(200)
        right = generator.random(200) < scores
        found = certified(list(scores), list(right), alpha=alpha, delta=delta)
        # P(wrong | score >= s) is the mean of 1 - score above s, which is (1 - s) / 2
        broken += found is not None and (1.0 - found) / 2.0 > alpha
    assert broken <= delta * draws + 3 * math.sqrt(delta * (1 - delta) * draws)


def test_a_looser_promise_keeps_more_near() -> None:
    generator = np.random.default_rng(1)
    scores = generator.random(500)
    right = list(generator.random(500) < scores**0.3)
    found = [certified(list(scores), right, alpha=a, delta=0.05) for a in (0.08, 0.12, 0.2)]
    assert None not in found and found == sorted(found, reverse=True) and found[0] > found[2]
