"""Calibrated rule: probabilities from signals, prompt and hidden states, and limits from aims."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offload.aims import Aim
from offload.errors import RequestError, SettingsError
from offload.policy.serving.answer_features import NAMES, answer_features
from offload.policy.serving.calibration_math import certified
from offload.policy.serving.consistency import QuestionForm
from offload.policy.serving.flags import MIN_SEEN, UNSEEN_RIGHT
from offload.policy.serving.logistic import log_odds
from offload.policy.serving.policy_file import (
    PolicyFile,
    prior_path,
    probe_path,
    read_policy,
    write_policy,
)
from offload.policy.serving.prior import Prior, load_prior, save_prior
from offload.policy.serving.probe import Probe, load_probe, save_probe
from offload.policy.serving.rule import Estimate, Limit, PromptEstimate
from offload.policy.serving.signals import Signals

_SURE_BY_PROMPT = 0.95  # the prior's P(near right) from which an answer is written to its end
_SURE = 1.6449  # one-sided 95% of a normal distribution


def load_calibrated(path: Path) -> CalibratedRule:
    """Read a policy file and what lies beside it. Raises SettingsError."""
    policy = read_policy(path)
    if policy.answer_scorer is not None and policy.answer_scorer.names != NAMES:
        raise SettingsError(
            f"the policy file {path} reads other features than this nearfar; calibrate again"
        )
    prior = load_prior(prior_path(path)) if policy.has_prior else None
    probe = load_probe(probe_path(path)) if policy.has_probe else None
    return CalibratedRule(policy, prior, probe)


@dataclass(frozen=True)
class CalibratedRule:
    """Rule of a policy file, with its prior and its probe."""

    policy: PolicyFile
    prior: Prior | None = None
    probe: Probe | None = None

    @property
    def watches_states(self) -> bool:
        return self.probe is not None

    @property
    def cloud_model(self) -> str | None:
        return self.policy.pairing.cloud_model

    @property
    def judges_measures(self) -> bool:
        """Whether answers are judged by the features of the rule of the first day."""
        return self.policy.answer_scorer is not None

    @property
    def far_at_once_gain(self) -> float | None:
        return self.policy.far_at_once_gain

    def expect(self, prompt: str) -> PromptEstimate:
        form = QuestionForm.read(prompt) if self.policy.answer_scorer is not None else None
        if self.prior is None:
            return PromptEstimate(far=self.policy.far(0.0), form=form)
        near, far = self.prior.probabilities(prompt)
        return PromptEstimate(near=near, far=self.policy.far(log_odds(far)), form=form)

    def judge(
        self,
        signals: Signals,
        expected: PromptEstimate,
        *,
        flags: Sequence[str] = (),
        states: Sequence[Any] = (),
    ) -> Estimate:
        if self.policy.answer_scorer is not None:
            form = expected.form or QuestionForm.read("")
            found = answer_features(form, signals)
            return self._judged(self.policy.answer_scorer(found), expected, flags)
        features = self._features(signals, expected)
        score = self.policy.early_scorer(features)
        if self.probe is not None and states:
            score = self.policy.final_scorer([*features, self.probe.score(states)])
        return self._judged(score, expected, flags)

    def judge_measures(
        self, measures: Mapping[str, float], expected: PromptEstimate, flags: Sequence[str]
    ) -> Estimate:
        """Return what judge() says by the answer's scorer, of features that a table keeps."""
        assert self.policy.answer_scorer is not None, "this policy judges by other features"
        found = [measures[name] for name in self.policy.answer_scorer.names]
        return self._judged(self.policy.answer_scorer(found), expected, flags)

    def _judged(self, score: float, expected: PromptEstimate, flags: Sequence[str]) -> Estimate:
        right = self.policy.near(score)
        for flag in flags:
            rate = self._right_with(flag)
            if rate < right:
                right, score = rate, min(score, log_odds(rate))
        return Estimate(score=score, right=right, far=expected.far)

    def gives_up(self, signals: Signals, expected: PromptEstimate, limit: Limit) -> bool:
        early = self.policy.early
        if signals.num_tokens not in early.checkpoints or limit.min_score > -math.inf:
            return False  # a promise holds for finished answers only
        if expected.near is not None and expected.near >= _SURE_BY_PROMPT:
            return False  # "Hello" has many good beginnings, which looks like doubt
        needed = (1.0 if expected.far is None else expected.far) - limit.max_need
        level = bisect_right(early.levels, needed) - 1
        if level < 0:
            return False
        bound = early.bounds[level][early.checkpoints.index(signals.num_tokens)]
        return self.policy.early_scorer(self._features(signals, expected)) < bound

    def limit(self, aim: Aim, *, min_gain: float | None = None, cost: float = 0.0) -> Limit:
        if aim.kind == "quality":
            return Limit(max_need=self._for_quality(aim.share))
        if aim.kind == "risk":
            return Limit(min_score=self._for_risk(aim))
        if aim.kind == "budget":
            return Limit(max_need=self.quantile_of_gains(1.0 - aim.share))
        least = self.policy.min_gain if min_gain is None else min_gain
        return Limit(max_need=least + cost)

    def seen_needs(self) -> list[float]:
        return list(self.policy.held.gains)

    def quantile_of_gains(self, share: float) -> float:
        """Return the gain that a share of the held questions does not pass."""
        gains = sorted(self.policy.held.gains)
        if share >= 1.0:
            return math.inf
        return gains[min(len(gains) - 1, int(share * len(gains)))] if share > 0 else -math.inf

    def _features(self, signals: Signals, expected: PromptEstimate) -> list[float]:
        features = signals.features()
        if self.prior is not None:
            assert expected.near is not None, "expect() comes before judge()"
            features.append(log_odds(expected.near))
        return features

    def _right_with(self, flag: str) -> float:
        number, right = self.policy.flags.get(flag, (0, 0))
        return (right + 0.5) / (number + 1.0) if number >= MIN_SEEN else UNSEEN_RIGHT

    def _for_quality(self, share: float) -> float:
        """Return the greatest gain left near with which the hybrid is surely good enough.

        Sure means that the mean of (hybrid right - share * far right) lies above zero by 1.64
        of its standard errors on the held questions.
        """
        held, best = self.policy.held, -math.inf
        number = len(held.gains)
        rows = sorted(zip(held.gains, held.near_right, held.far_right, strict=True))
        total = sum(far - share * far for far in held.far_right)
        square = sum((far - share * far) ** 2 for far in held.far_right)
        for gain, near, far in rows:
            before, after = far - share * far, near - share * far
            total += after - before
            square += after**2 - before**2
            mean = total / number
            error = math.sqrt(max(0.0, square / number - mean**2) / number)
            if mean - _SURE * error >= 0.0:
                best = gain
        return best

    def _for_risk(self, aim: Aim) -> float:
        held, delta = self.policy.held, self.policy.delta
        found = certified(held.scores, held.near_right, alpha=aim.share, delta=delta)
        if found is None:
            raise RequestError(
                f"{aim} cannot be promised: on the {len(held.scores)} questions held back no "
                f"threshold keeps the near model's errors within {aim.share:.0%}; "
                "allow more, or calibrate on more questions"
            )
        return found


def save_policy(rule: CalibratedRule, path: Path) -> None:
    """Write a policy; the JSON file last, so that none names arrays that are not there.

    Raises SettingsError where it cannot be written.
    """
    if rule.prior is not None:
        save_prior(rule.prior, prior_path(path))
    if rule.probe is not None:
        save_probe(rule.probe, probe_path(path))
    else:
        probe_path(path).unlink(missing_ok=True)
    write_policy(rule.policy, path)
