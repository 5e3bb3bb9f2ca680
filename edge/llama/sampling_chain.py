"""Sampling chain: bias, penalty, top-k, top-p, min-p and temperature over one row of logits.

The steps and their order are those of llama.cpp's sampler chain. They are done on NumPy rows, since
llama.cpp's own samplers walk a record per token: over the 152,000 tokens of Qwen2.5 that takes 2 to
3.5 ms, a tenth of a small model's step, and this 0.1 to 0.4.
"""

from __future__ import annotations

import math
import random
from collections import Counter, deque
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from offload.errors import RequestError
from offload.messages import Sampling

PENALTY_WINDOW = 64  # newest tokens that the repetition penalty looks at, as in llama.cpp
FIRST_DEPTH = 8.0  # nats below the peak in which top-p looks first
_GROUPS = 128  # a row is summed, and its largest found, in so many slices at once

Row = npt.NDArray[np.float32]  # [vocabulary], or of the tokens that may come
Ids = npt.NDArray[np.int64]


class SamplingChain:
    """Sampling chain of one answer: chooses each token from a row of logits, left unchanged.

    Temperature 0 is greedy, the lowest token first where logits are equal. Raises RequestError
    for a bias on, or an end by, a token that the model does not have.
    """

    def __init__(self, sampling: Sampling, num_vocabulary: int) -> None:
        self._sampling = sampling
        self._biases = _biases(sampling, num_vocabulary)
        self._penalizes = sampling.repetition_penalty != 1
        self._recent: deque[int] = deque(maxlen=PENALTY_WINDOW)
        self._counts: Counter[int] | None = None  # of the answer's tokens, where they are asked for
        if sampling.presence_penalty or sampling.frequency_penalty:
            self._counts = Counter()
        self._random = random.Random(sampling.seed)
        # Rows of the vocabulary's size, which a step fills anew and never allocates.
        self._row = np.empty(num_vocabulary, np.float32)
        self._weights = np.zeros(-(-num_vocabulary // _GROUPS) * _GROUPS, np.float32)

    @property
    def takes_the_peak(self) -> bool:
        """Return whether every choice is simply the largest logit."""
        counts = self._counts is not None
        return not (self._sampling.temperature or self._penalizes or self._biases or counts)

    def remember(self, tokens: Sequence[int]) -> None:
        """Let the repetition penalty count these, the newest last."""
        if self._penalizes:
            self._recent.extend(tokens[-PENALTY_WINDOW:])

    def note(self, token: int) -> None:
        """Let the penalties count a token that was chosen."""
        self.remember((token,))
        if self._counts is not None:
            self._counts[token] += 1

    def choose(self, logits: Row, among: Ids | None = None) -> int | None:
        """Return the token to come, out of all or `among` some; None where each is forbidden.

        A token is forbidden by a logit of minus infinity.
        """
        row = self.adjusted(logits)
        if among is not None:
            row = row[among]
        best = int(row.argmax()) if len(row) else 0
        if not len(row) or row[best] == -np.inf:
            return None
        place = best if self._sampling.temperature == 0 else self._draw(row, float(row[best]))
        return place if among is None else int(among[place])

    def adjusted(self, logits: Row) -> Row:
        """Return the logits with biases added, and those said lately made less likely."""
        if not (self._biases or self._recent or self._counts):
            return logits
        row = self._row
        np.copyto(row, logits)
        for token, bias in self._biases.items():
            row[token] += bias
        penalty = self._sampling.repetition_penalty
        said = np.fromiter(set(self._recent), np.int64)
        found = row[said]
        row[said] = np.where(found <= 0, found * penalty, found / penalty)
        for token, count in (self._counts or {}).items():
            asked = self._sampling
            row[token] -= asked.presence_penalty + count * asked.frequency_penalty
        return row

    def _draw(self, row: Row, peak: float) -> int:
        temperature = self._sampling.temperature
        near = self.near(row, peak)
        if near is not None:
            weights = np.exp((row[near].astype(np.float64) - peak) / temperature)
            return int(near[self._pick(weights)])
        weights = self._exponents(row, peak, temperature).reshape(_GROUPS, -1)
        # First a column by its sum and then a token in it: a running sum of all takes far longer.
        column = self._pick(weights.sum(0))
        return self._pick(weights[:, column]) * weights.shape[1] + column

    def near(self, row: Row, peak: float) -> Ids | None:
        """Return the tokens that top-k, top-p and min-p leave, likeliest first; None for all."""
        sampling = self._sampling
        floor = peak + math.log(sampling.min_p) if sampling.min_p > 0 else -math.inf
        if 0 < sampling.top_k < len(row):
            near = largest(row, sampling.top_k)
        elif sampling.min_p > 0:
            near = _descending(row, np.flatnonzero(row >= floor))
        elif sampling.top_p < 1:
            return self._top_p(row, peak)
        else:
            return None
        if sampling.top_p < 1:
            weights = np.exp(row[near].astype(np.float64) - peak)
            limited = 0 < sampling.top_k < len(row)
            total = weights.sum() if limited else self._exponents(row, peak).sum()
            near = near[: _num_holding(weights, sampling.top_p * float(total))]
        return near[row[near] >= floor]

    def _top_p(self, row: Row, peak: float) -> Ids:
        """Return the fewest tokens that hold top_p of the whole row's weight."""
        wanted = self._sampling.top_p * float(self._exponents(row, peak).sum())
        depth = FIRST_DEPTH
        while True:
            near = np.flatnonzero(row >= peak - depth)
            weights = np.exp(row[near].astype(np.float64) - peak)
            if weights.sum() >= wanted or len(near) == len(row) or depth > 1e4:
                break
            depth *= 2
        near = _descending(row, near)
        weights = np.exp(row[near].astype(np.float64) - peak)
        return near[: _num_holding(weights, wanted)]

    def _exponents(self, row: Row, peak: float, temperature: float = 1.0) -> Row:
        """Return each token's weight, 1 at the peak, and zeros up to a multiple of `_GROUPS`."""
        size = -(-len(row) // _GROUPS) * _GROUPS
        weights = self._weights[:size]
        weights[len(row) :] = 0
        found = weights[: len(row)]
        np.subtract(row, np.float32(peak), out=found)
        if temperature != 1:
            np.divide(found, np.float32(temperature), out=found)
        np.exp(found, out=found)
        return weights

    def _pick(self, weights: npt.NDArray[np.floating]) -> int:
        """Return a place, drawn in proportion to the weights."""
        sums = np.cumsum(weights, dtype=np.float64)
        drawn = np.searchsorted(sums, self._random.random() * sums[-1], side="right")
        return int(min(drawn, np.searchsorted(sums, sums[-1])))


def largest(row: Row, count: int) -> Ids:
    """Return the places of the `count` largest of a row, the first of them first.

    Of equals the lower place comes first. The largest of each of many slices tell a bound that
    few others reach, so that only those few are sorted.
    """
    width = len(row) // _GROUPS
    if count >= width:
        return _descending(row, np.arange(len(row)))[:count]
    peaks = row[: width * _GROUPS].reshape(_GROUPS, width).max(0)
    bound = np.partition(peaks, width - count)[width - count]
    return _descending(row, np.flatnonzero(row >= bound))[:count]


def _descending(row: Row, places: Ids) -> Ids:
    return places[np.argsort(-row[places], kind="stable")]


def _num_holding(weights: npt.NDArray[np.float64], wanted: float) -> int:
    """Return how many of the weights, the largest first, hold `wanted` together."""
    return int(np.searchsorted(np.cumsum(weights), wanted)) + 1


def _biases(sampling: Sampling, num_vocabulary: int) -> dict[int, float]:
    biases = sampling.logit_bias or {}
    _require_known("logit_bias", biases, num_vocabulary)
    _require_known("stop_token_ids", sampling.stop_token_ids, num_vocabulary)
    return biases


def _require_known(name: str, tokens: Iterable[int], num_vocabulary: int) -> None:
    for token in tokens:
        if token >= num_vocabulary:
            raise RequestError(
                f"{name} names token {token} and this model's last is {num_vocabulary - 1}; "
                "use this model's token ids"
            )
