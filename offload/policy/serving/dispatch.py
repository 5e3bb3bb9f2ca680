"""Who starts on a request, decided before anything is written: from the prompt, time and money."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from offload.policy.serving.rule import Expectation, Limit
from offload.policy.serving.timing import Times

Start = Literal["near", "far", "both", "near_only"]

_ASSUMED_PROMPT_SHARE = 0.3  # characters a token, roughly: a price needs no more


@dataclass(frozen=True, kw_only=True)
class Prices:
    """What the cloud costs, per million tokens, and what a right answer is worth, in one currency.

    `worth` of 0 says nothing: then the price decides nothing but what `max_cost` allows.
    """

    price_in: float = 0.0
    price_out: float = 0.0
    worth: float = 0.0

    def cost(self, num_prompt_tokens: float, num_answer_tokens: float) -> float:
        """Return what an answer costs."""
        return (num_prompt_tokens * self.price_in + num_answer_tokens * self.price_out) / 1e6

    def expected_cost(self, num_chars: int, max_tokens: int) -> float:
        """Return the most an answer is expected to cost, before it is asked for."""
        return self.cost(num_chars * _ASSUMED_PROMPT_SHARE, max_tokens)

    def in_gain(self, cost: float) -> float:
        """Return how much likelier right the cloud must be, so that it is worth its cost."""
        return cost / self.worth if self.worth > 0.0 else 0.0


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What is expected of a request before it is begun."""

    expected: Expectation
    near: Times
    far: Times
    deadline_s: float | None = None


def dispatch(outlook: Outlook, limit: Limit, straight: float | None) -> tuple[Start, str]:
    """Return who starts, and the reason code where that settles who answers.

    "near" lets the near model answer under watch; "near_only" does not ask far at all; "both" is
    the hedged start: near and far begin at once, since there would be no time for one after the
    other.
    """
    gain, deadline = outlook.expected.gain, outlook.deadline_s
    needed = gain is not None and gain > limit.max_need
    near_s, far_s = outlook.near.whole_s, outlook.far.whole_s
    if deadline is not None and near_s is not None and far_s is not None:
        if far_s > deadline:
            return "near_only", "no_time"
        if near_s > deadline:
            return "far", "deadline"
        if needed and near_s + far_s > deadline:
            return "both", "hedged"
    if needed and straight is not None and gain is not None and gain >= straight:
        return "far", "too_hard"
    return "near", "confident"
