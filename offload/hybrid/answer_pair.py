"""Answer pair: what both models made of one question, handed to whoever learns from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from offload.policy.serving.rule import Rule
from offload.policy.serving.signals import Signals


@dataclass(frozen=True, kw_only=True)
class AnswerPair:
    """Pair of finished answers to one question, with their texts: nothing here is kept.

    `far_model` is the far model's name; `far` has no tokens where it tells none. `propensity`
    is how likely the far model was to be asked.
    """

    question: str
    near: Signals
    flags: tuple[str, ...]
    far: Signals
    far_model: str
    propensity: float


class Learner(Protocol):
    """Learner from pairs; it never raises into an answer, and never blocks one."""

    def take(self, pair: AnswerPair) -> None:
        """Learn from a pair, later and elsewhere."""
        ...

    def newer_rule(self) -> Rule | None:
        """Return the rule that was fitted since the last call, None without one."""
        ...

    def rule_for(self, far_model: str) -> Rule | None:
        """Return the rule that was learnt beside a far model, None without one."""
        ...

    async def aclose(self) -> None:
        """Finish what is under way."""
        ...
