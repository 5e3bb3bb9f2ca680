"""Rule in use: the one that decides now, until one that was learnt takes its place, or is not."""

from __future__ import annotations

import logging

from offload.hybrid.answer_pair import Learner
from offload.policy.serving.controller import AimLimits
from offload.policy.serving.first_day import FirstDayRule, first_day
from offload.policy.serving.rule import Rule

_log = logging.getLogger("nearfar.policy")


class RuleInUse:
    """Rule in use, with the limits that it gives each aim; `learner` has those learnt since."""

    def __init__(self, rule: Rule, min_gain: float | None, learner: Learner | None) -> None:
        self._min_gain, self._learner = min_gain, learner
        self._has_met = False
        self._go_by(rule)

    def _go_by(self, rule: Rule) -> None:
        self.rule = rule
        self.limits = AimLimits(rule, self._min_gain)

    def renew(self, *, learns: bool) -> None:
        """Go by what was learnt since, or by nothing learnt where that is no longer wished."""
        newer = self._learner.newer_rule() if self._learner is not None else None
        if newer is not None and learns:
            self._go_by(newer)
        elif not learns and isinstance(self.rule, FirstDayRule) and self.rule.far_model is not None:
            self._go_by(first_day())

    def meet(self, far_model: str) -> None:
        """Look at the far model's name, once: what was learnt of one says nothing of another."""
        if self._has_met:
            return
        self._has_met = True
        wanted = self.rule.cloud_model
        if wanted in (None, far_model):
            return
        learnt = self._learner.rule_for(far_model) if self._learner is not None else None
        self._go_by(learnt or first_day())
        _log.warning(
            "nearfar: the policy was fitted beside the far model %s, not %s: now %s decides",
            wanted,
            far_model,
            "what was learnt beside that one"
            if learnt
            else "the rule of the first day (`nearfar policy calibrate` makes a new policy)",
        )
