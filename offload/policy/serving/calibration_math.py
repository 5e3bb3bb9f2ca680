"""Calibration mathematics: isotonic regression, and thresholds with a guaranteed error rate.

The guarantee: of the answers kept near at most a share alpha are wrong. It holds with probability
1 - delta over the calibration questions, whatever the model and the score, if the questions to come
are of the same kind. Learn then Test (Angelopoulos et al., arXiv 2110.01052): each threshold is a
hypothesis with an exact binomial p-value (Clopper and Pearson 1934), and those from strict to loose
are tested in turn from several starts.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise

from offload.errors import RequestError
from offload.messages import BaseStruct

NUM_STARTS = 6


class Isotonic(BaseStruct, frozen=True, kw_only=True):
    """Isotonic curve: rises through knots, straight between them, level beyond the ends."""

    scores: tuple[float, ...]
    probabilities: tuple[float, ...]

    def __post_init__(self) -> None:
        rises = all(low < high for low, high in pairwise(self.scores))
        are_chances = all(0.0 <= each <= 1.0 for each in self.probabilities)
        if not (len(self.scores) == len(self.probabilities) > 0 and rises and are_chances):
            raise RequestError("a curve of probabilities does not fit together; calibrate again")

    def __call__(self, score: float) -> float:
        """Return the probability that belongs to a score."""
        place = bisect_right(self.scores, score)
        if place == 0:
            return self.probabilities[0]
        if place == len(self.scores):
            return self.probabilities[-1]
        low, high = self.scores[place - 1], self.scores[place]
        part = (score - low) / (high - low)
        low, high = self.probabilities[place - 1], self.probabilities[place]
        # In this form rounding never turns the line down, and the bound keeps it below its end.
        return min(high, low + (high - low) * part)


def fit_isotonic(scores: Sequence[float], happened: Sequence[bool]) -> Isotonic:
    """Fit by pooling adjacent violators (Barlow et al. 1972); a knot at each pool's mean score.

    Each pool's share is drawn to one half by one question in two, so that no probability is 0
    or 1.
    """
    pools: list[list[float]] = []  # [number right, number, sum of scores]
    for each, was_right in sorted(zip(scores, happened, strict=True)):
        pools.append([float(was_right), 1.0, each])
        while len(pools) > 1 and pools[-2][0] * pools[-1][1] >= pools[-1][0] * pools[-2][1]:
            last = pools.pop()
            pools[-1] = [a + b for a, b in zip(pools[-1], last, strict=True)]
    knots: dict[float, float] = {}
    for right, number, total in pools:
        knots[total / number] = (right + 0.5) / (number + 1.0)
    # The pull to one half may upset the order of a small pool beside a large one.
    rising, highest = [], 0.0
    for probability in knots.values():
        highest = max(highest, probability)
        rising.append(highest)
    return Isotonic(scores=tuple(knots), probabilities=tuple(rising))


def binomial_below(num_wrong: int, number: int, share: float, *, enough: float = math.inf) -> float:
    """Return the probability of at most `num_wrong` of `number` where each is wrong by `share`.

    A sum that has passed `enough` is returned as it stands.
    """
    if share <= 0.0 or num_wrong >= number:
        return 1.0
    if share >= 1.0:
        return 0.0
    total, log_odds = 0.0, math.log(share) - math.log1p(-share)
    log_term = number * math.log1p(-share)
    for wrong in range(num_wrong + 1):
        total += math.exp(log_term)
        if total > enough:
            break
        log_term += math.log((number - wrong) / (wrong + 1)) + log_odds
    return min(1.0, total)


def certified(
    scores: Sequence[float], right: Sequence[bool], *, alpha: float, delta: float
) -> float | None:
    """Return the lowest score at which an answer may be kept near; None where none may.

    `scores` must come from rows on which nothing of the score was fitted. Kept are scores at
    or above the threshold.
    """
    ranked = sorted(zip(scores, right, strict=True), reverse=True)
    following = [*(score for score, _ in ranked[1:]), None]
    ends = [place for place, (score, _) in enumerate(ranked) if score != following[place]]
    wrong, counts = 0, []
    for _, was_right in ranked:
        wrong += not was_right
        counts.append(wrong)
    best, tested = None, -1
    for start in _starts(len(ranked), alpha, delta):
        for end in ends:
            if end < max(start, tested + 1):
                continue
            share = delta / NUM_STARTS
            if binomial_below(counts[end], end + 1, alpha, enough=share) > share:
                break
            best = tested = end
    return None if best is None else ranked[best][0]


def _starts(number: int, alpha: float, delta: float) -> list[int]:
    """Return where the sequences start: none earlier than where an unblemished row would pass."""
    if not 0.0 < alpha < 1.0:
        return []
    first = math.ceil(math.log(delta / NUM_STARTS) / math.log1p(-alpha))
    ratio = max(1.0, number / first) ** (1 / NUM_STARTS)
    return [round(first * ratio**step) - 1 for step in range(NUM_STARTS)]
