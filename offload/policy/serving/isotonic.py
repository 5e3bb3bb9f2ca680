"""From a score to a probability that only rises with it: isotonic regression."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from offload.messages import Word


class Isotonic(Word, frozen=True, kw_only=True):
    """A rising line through knots; straight between them, level beyond the ends."""

    scores: tuple[float, ...]
    probabilities: tuple[float, ...]

    def __call__(self, score: float) -> float:
        """Return the probability that belongs to a score."""
        place = bisect_right(self.scores, score)
        if place == 0:
            return self.probabilities[0]
        if place == len(self.scores):
            return self.probabilities[-1]
        low, high = self.scores[place - 1], self.scores[place]
        part = (score - low) / (high - low)
        least, most = self.probabilities[place - 1], self.probabilities[place]
        # In this form rounding never turns the line down, and the bound keeps it below its end.
        return min(most, least + (most - least) * part)


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
