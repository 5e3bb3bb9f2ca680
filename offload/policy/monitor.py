"""Watches how sure the near model is, token by token, and trips when it is not."""

from __future__ import annotations

import math
from dataclasses import dataclass

from offload.errors import SettingsError
from offload.messages import Confidence


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """When to ask the cloud: a token whose log-probability is below `min_logprob`, in nats."""

    min_logprob: float = -0.7

    def __post_init__(self) -> None:
        if not self.min_logprob <= 0.0:
            raise SettingsError(
                f"policy.min_logprob is {self.min_logprob}; it must be a number of 0 or less"
            )


class Monitor:
    """One answer's running confidence: the smallest log-probability seen so far.

    The minimum separated right from wrong better than the mean or the first token on the
    embedded pair's calibration questions (edge/pair/README.md).
    """

    def __init__(self, threshold: Threshold) -> None:
        self._threshold = threshold
        self._least = 0.0

    def see(self, tokens: tuple[Confidence, ...]) -> None:
        """Take the confidence of the newest tokens; NaN counts as no confidence at all."""
        for token in tokens:
            logprob = -math.inf if math.isnan(token.logprob) else token.logprob
            self._least = min(self._least, logprob)

    @property
    def tripped(self) -> bool:
        """Whether the cloud should be asked."""
        return self._least < self._threshold.min_logprob

    @property
    def confidence(self) -> float:
        """Return the probability of the least likely token so far, 0 to 1."""
        return math.exp(self._least)
