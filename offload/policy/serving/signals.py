"""Signals of an answer's tokens: log-probability, entropy and margin, kept up token by token.

The quantiles of the token log-probabilities follow Gupta et al. (arXiv 2404.10136): a sum punishes
long answers and a mean forgives one bad token among many. Plain Python, since a call of numpy
costs more than all of this does.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Sequence

from offload.messages import Confidence

NAMES = (
    "least",
    "tenth",
    "quarter",
    "half",
    "mean",
    "sum",
    "first",
    "last",
    "entropy_max",
    "entropy_mean",
    "entropy_sum",
    "margin_min",
    "margin_min_log",
    "margin_mean",
    "length",
    "place_of_least",
)
_LOWEST, _WIDEST = -30.0, 30.0  # nats; what is no number counts as the worst
_TINY = 1e-4


class Signals:
    """Signals of one answer so far, and its text where it is known.

    ends: [tokens], how long the text was behind each; of tokens that came together, as if each
    spelled an equal part.
    """

    def __init__(self) -> None:
        self.text = ""
        self.tokens: list[Confidence] = []
        self.ends: list[int] = []
        self.least = 0.0
        self._place_of_least = 0
        self._sorted: list[float] = []
        self._sum = self._first = self._last = 0.0
        self._entropy_sum = self._entropy_max = 0.0
        self._margin_sum, self._margin_min = 0.0, _WIDEST

    @property
    def num_tokens(self) -> int:
        return len(self.tokens)

    def take(self, tokens: Sequence[Confidence], text: str = "") -> None:
        """Add the newest tokens, and what they add to the text."""
        before = len(self.text)
        self.text += text
        self.ends += [
            before + round((place + 1) * len(text) / len(tokens)) for place in range(len(tokens))
        ]
        for token in tokens:
            logprob = _clamped(token.logprob, _LOWEST, 0.0, _LOWEST)
            entropy = _clamped(token.entropy, 0.0, _WIDEST, _WIDEST)
            margin = _clamped(token.margin, 0.0, _WIDEST, 0.0)
            if logprob < self.least:
                self.least, self._place_of_least = logprob, self.num_tokens
            if self.num_tokens == 0:
                self._first = logprob
            self._last = logprob
            self._sum += logprob
            insort(self._sorted, logprob)
            self._entropy_sum += entropy
            self._entropy_max = max(self._entropy_max, entropy)
            self._margin_sum += margin
            self._margin_min = min(self._margin_min, margin)
            self.tokens.append(token)

    @property
    def tenth(self) -> float:
        """Return the log-probability below which a tenth of the tokens lie, in nats."""
        return self._quantile(0.1)

    def features(self) -> list[float]:
        """Return one number for each of NAMES; of an answer without tokens, those of no doubt."""
        count = max(1, self.num_tokens)
        return [
            _log(-self.least),
            _log(-self._quantile(0.1)),
            _log(-self._quantile(0.25)),
            _log(-self._quantile(0.5)),
            _log(-self._sum / count),
            _log(-self._sum),
            _log(-self._first),
            _log(-self._last),
            _log(self._entropy_max),
            _log(self._entropy_sum / count),
            _log(self._entropy_sum),
            self._margin_min,
            _log(self._margin_min),
            self._margin_sum / count,
            math.log(count),
            self._place_of_least / count,
        ]

    def _quantile(self, share: float) -> float:
        ordered = self._sorted
        if not ordered:
            return 0.0
        place = share * (len(ordered) - 1)
        low = int(place)
        high = min(low + 1, len(ordered) - 1)
        return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def _log(value: float) -> float:
    return math.log(value + _TINY)


def _clamped(value: float, low: float, high: float, otherwise: float) -> float:
    return otherwise if math.isnan(value) else max(low, min(high, value))
