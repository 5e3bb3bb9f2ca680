"""Rule protocol: what every rule of the policy tells, and the plain log-probability threshold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from offload.aims import Aim
from offload.errors import RequestError, SettingsError
from offload.policy.serving.consistency import QuestionForm
from offload.policy.serving.signals import Signals


@dataclass(frozen=True, kw_only=True)
class PromptEstimate:
    """Estimate from the prompt alone: P(near right), P(far right), None where nothing was learnt.

    `asked` is what it says of its answer, for a rule that holds answers against it.
    """

    near: float | None = None
    far: float | None = None
    form: QuestionForm | None = None

    @property
    def gain(self) -> float | None:
        """Return P(far right) - P(near right)."""
        return None if self.near is None or self.far is None else self.far - self.near


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Estimate from an answer's signals; a higher `score` is a surer answer."""

    score: float
    right: float | None = None  # P(near right), 0 to 1, where it was calibrated on anything
    far: float | None = None  # P(far right)

    @property
    def gain(self) -> float | None:
        """Return what asking far would add to the probability of a right answer."""
        return None if self.far is None or self.right is None else self.far - self.right

    @property
    def need(self) -> float:
        """Return by what answers are ranked when only some may go far."""
        return -self.score if self.gain is None else self.gain


@dataclass(frozen=True, kw_only=True)
class Limit:
    """Limit that an answer must keep to stay near."""

    max_need: float = math.inf
    min_score: float = -math.inf

    def passed_by(self, estimate: Estimate) -> bool:
        """Whether the cloud should be asked."""
        return estimate.need > self.max_need or estimate.score < self.min_score

    def eased(self) -> Limit:
        """Return the limit of a turn that asks nothing, whose many good answers look like doubt.

        It stays near unless the cloud is likelier right by two fifths, or, by a threshold set by
        hand, a token was four times as unlikely, in nats, as otherwise passes.
        """
        return Limit(max_need=max(self.max_need, 0.4), min_score=4.0 * self.min_score)


class Rule(Protocol):
    """Rule that decides who answers."""

    @property
    def watches_states(self) -> bool:
        """Whether the near model's hidden states are wanted."""
        ...

    @property
    def cloud_model(self) -> str | None:
        """Return the cloud model it was calibrated for; None for any."""
        ...

    @property
    def far_at_once_gain(self) -> float | None:
        """Return the prompt's gain from which the near model need not be tried; None for never."""
        ...

    def expect(self, prompt: str) -> PromptEstimate:
        """Return what the prompt alone says."""
        ...

    def judge(
        self,
        signals: Signals,
        expected: PromptEstimate,
        *,
        flags: Sequence[str] = (),
        states: Sequence[Any] = (),
    ) -> Estimate:
        """Return what a finished answer is worth; `states` are float32 [hidden] per token."""
        ...

    def gives_up(self, signals: Signals, expected: PromptEstimate, limit: Limit) -> bool:
        """Whether an unfinished answer would be withdrawn anyway, as far as can be told."""
        ...

    def seen_needs(self) -> list[float]:
        """Return the needs of the questions it was calibrated on: what a budget starts from."""
        ...

    def limit(self, aim: Aim, *, min_gain: float | None = None, cost: float = 0.0) -> Limit:
        """Return what an aim asks. Raises RequestError for one that cannot be kept.

        `min_gain` is the person's own, for plain auto; asking far must bring `cost` more than it.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class ThresholdRule:
    """Threshold rule: far below a token log-probability of `min_logprob`, in nats, set by hand."""

    min_logprob: float = -0.7

    def __post_init__(self) -> None:
        if not self.min_logprob <= 0.0:
            raise SettingsError(
                f"policy.min_logprob is {self.min_logprob}; it must be a number of 0 or less"
            )

    @property
    def watches_states(self) -> bool:
        return False

    @property
    def cloud_model(self) -> str | None:
        return None

    @property
    def far_at_once_gain(self) -> float | None:
        return None

    def expect(self, prompt: str) -> PromptEstimate:
        return PromptEstimate()

    def judge(
        self,
        signals: Signals,
        expected: PromptEstimate,
        *,
        flags: Sequence[str] = (),
        states: Sequence[Any] = (),
    ) -> Estimate:
        score = signals.least
        if flags:
            score = min(score, self.min_logprob - 0.01)
        return Estimate(score=score)

    def gives_up(self, signals: Signals, expected: PromptEstimate, limit: Limit) -> bool:
        # The least can only fall, so that nothing is lost by not waiting for the end.
        return limit.passed_by(self.judge(signals, expected))

    def seen_needs(self) -> list[float]:
        return []

    def limit(self, aim: Aim, *, min_gain: float | None = None, cost: float = 0.0) -> Limit:
        refuse_promises(aim)
        return Limit(min_score=self.min_logprob)


def refuse_promises(aim: Aim) -> None:
    """Raise RequestError for an aim that only a calibrated policy can keep."""
    if aim.kind in ("quality", "risk"):
        raise RequestError(
            f"{aim} needs a calibrated policy, and this model has none; "
            "run `nearfar policy calibrate`, or ask for auto or auto-b20"
        )
