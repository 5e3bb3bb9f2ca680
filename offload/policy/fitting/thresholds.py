"""Thresholds of a policy, read off labelled questions: gains to ask at, bounds to give up below."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from offload.policy.fitting.labelled_questions import LabelledRow
from offload.policy.serving.calibration_math import fit_isotonic
from offload.policy.serving.features import Floats
from offload.policy.serving.logistic import Scorer
from offload.policy.serving.policy_file import EarlyBounds

_STRAIGHT_SHARE, _STRAIGHT_LEAST = 0.98, 30
CHECKPOINTS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 96, 128, 192, 256)
LEVELS = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95)
_NEVER = -1e9  # JSON has no infinity
_LEAST_SEEN = 20
_ASSUMED_FAR = 0.83  # how often published strong models are right, as in the first day's rule


def crossed_isotonic(scores: Sequence[float], right: Sequence[bool]) -> Floats:
    """Return each row's probability by the isotonic curve of the other half of the rows."""
    said = np.zeros(len(scores))
    for part in (0, 1):
        curve = fit_isotonic(scores[1 - part :: 2], right[1 - part :: 2])
        said[part::2] = [curve(score) for score in scores[part::2]]
    return said


def far_accuracy(scores: Sequence[float], same: Floats) -> float:
    """Return how often the far model is right, told by how often the surest near answers agree.

    Where the near model is surely right, only a wrong far answer differs. `same` is 1 where the two
    agree, and the surest fifth is looked at, with the share of the first day's rule as five more.
    """
    count = max(1, len(scores) // 5)
    surest = same[np.argsort(scores, kind="stable")[-count:]]
    return float((surest.sum() + 5.0 * _ASSUMED_FAR) / (count + 5.0))


def truth_behind(same: Floats, chances: Floats, far: float) -> tuple[Floats, Floats]:
    """Return P(near right) and P(far right) of answers, given whether the two agree.

    chances: how likely each near answer was to agree; far: how often the far model is right. Two
    that agree are taken for right; of two that differ one is wrong, and a sure near answer beside
    a far model that errs is likelier right than that (Bayes; Dawid and Skene 1979 for two raters).
    """
    near = np.clip(chances / far, 0.0, 1.0)  # both right is what agreeing mostly means
    either = np.maximum(1.0 - near * far, 1e-9)
    near_right = np.where(same > 0, 1.0, near * (1.0 - far) / either)
    far_right = np.where(same > 0, 1.0, (1.0 - near) * far / either)
    return near_right, far_right


def least_gain(gains: Sequence[float], near: Floats, far: Floats, quality: float) -> float:
    """Return the greatest gain left near with which the hybrid is right often enough here."""
    order = np.argsort(gains, kind="stable")
    near, far = near[order], far[order]
    # mixed[k]: the k questions of the least gain stay near
    mixed = np.cumsum(np.append(far.sum(), near - far))
    enough = np.flatnonzero(mixed >= quality * far.sum())
    stays = int(enough[-1]) if len(enough) else 0
    return float(gains[order[stays - 1]]) if stays else -1.0


def fit_far_at_once_gain(
    expected: Sequence[float], gains: Sequence[float], min_gain: float
) -> float | None:
    """Return the prompt's gain from which nearly all answers went far in the end, if any."""
    ranked = sorted(zip(expected, gains, strict=True), reverse=True)
    went, best = 0, None
    for number, (gain, in_the_end) in enumerate(ranked, start=1):
        went += in_the_end > min_gain
        if number >= _STRAIGHT_LEAST and went / number >= _STRAIGHT_SHARE:
            best = gain
    return best


def fit_early(
    rows: Sequence[LabelledRow],
    near_odds: Sequence[float],
    kept: Sequence[float],
    scorer: Scorer,
    error: float,
) -> EarlyBounds:
    """Return the bounds; `kept` is P(right) of each finished answer, `near_odds` its prompt's.

    Of the answers that would be kept at a level, at most a share `error` is given up over all
    checkpoints. At each checkpoint may be spent what the answers still running there are of all
    tokens to come, so that long answers are not given up at their first word only.
    """
    reached = [
        cp for cp in CHECKPOINTS if sum(len(r.near.tokens) > cp for r in rows) >= _LEAST_SEEN
    ]
    partial = {
        at: {
            place: scorer([*row.near.signals(at).features(), near_odds[place]])
            for place, row in enumerate(rows)
            if len(row.near.tokens) > at
        }
        for at in reached
    }
    bounds = []
    for level in LEVELS:
        good = {place for place, right in enumerate(kept) if right >= level}
        bounds.append(tuple(_spend(good, partial, error)))
    return EarlyBounds(levels=LEVELS, checkpoints=tuple(reached), bounds=tuple(bounds))


def _spend(good: set[int], partial: dict[int, dict[int, float]], error: float) -> list[float]:
    """Return a bound per checkpoint for the answers that are `good` in the end."""
    allowed, spent, running, bounds = error * len(good), 0, set(good), list[float]()
    shares = [len(good & said.keys()) for said in partial.values()]
    total, budget = max(1, sum(shares)), 0.0
    for share, said in zip(shares, partial.values(), strict=True):
        budget += allowed * share / total
        scores = sorted(said[place] for place in running & said.keys())
        may = min(int(budget) - spent, len(scores) - 1)
        bound = scores[may] if len(scores) >= _LEAST_SEEN else _NEVER
        bounds.append(bound)
        given_up = {place for place in running & said.keys() if said[place] < bound}
        spent += len(given_up)
        running -= given_up
    return bounds
