"""Probabilities that rise with their score."""

from __future__ import annotations

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from offload.policy.fitting.deferral_curve import ece
from offload.policy.serving.isotonic import fit_isotonic

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
