"""Rule of the first day: P(near right) for a model that nobody has calibrated.

It was fitted to the answers of a few real models to questions with known answers, judged on models
and sets of questions that it was not fitted to (benchmarks/policy_real.py), and ships as one JSON
file of weights. Its probabilities are of other models than the one at hand, so a person is told
them in words.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from backbone.errors import cause
from offload.aims import Aim
from offload.errors import SettingsError
from offload.messages import BaseStruct
from offload.policy.serving.answer_features import (
    NAMES,
    PROMPT_NAMES,
    answer_features,
    prompt_features,
)
from offload.policy.serving.consistency import QuestionForm
from offload.policy.serving.flags import UNSEEN_RIGHT
from offload.policy.serving.logistic import Scorer, chance, log_odds
from offload.policy.serving.rule import Estimate, Limit, PromptEstimate, refuse_promises
from offload.policy.serving.signals import Signals

VERSION = 1
SHIPPED = Path(__file__).with_name("first_day.json")


class FittedOn(BaseStruct, frozen=True, kw_only=True):
    """Data a rule was fitted to: models, sets, and questions (mark_of)."""

    models: tuple[str, ...]
    sets: tuple[str, ...]
    questions: tuple[str, ...]


class FirstDayFile(BaseStruct, frozen=True, kw_only=True):
    """Weights of an answer's features for P(near right), and of a prompt's for both sides.

    `min_gain` is how much likelier right the far model must be for plain `auto` to ask it, `needs`
    are what the questions it was fitted to asked for: what a budget starts from.
    """

    version: int
    near: Scorer
    near_by_prompt: Scorer
    far_by_prompt: Scorer
    min_gain: float
    needs: tuple[float, ...]
    fitted_on: FittedOn


@dataclass(frozen=True)
class FirstDayRule:
    """Rule of the shipped weights, or of weights that were learnt beside one far model."""

    file: FirstDayFile
    far_model: str | None = None

    @property
    def watches_states(self) -> bool:
        return False

    @property
    def cloud_model(self) -> str | None:
        return self.far_model

    @property
    def far_at_once_gain(self) -> float | None:
        return None

    def expect(self, prompt: str) -> PromptEstimate:
        form = QuestionForm.read(prompt)
        return self._expected(prompt_features(form), form)

    def judge(
        self,
        signals: Signals,
        expected: PromptEstimate,
        *,
        flags: Sequence[str] = (),
        states: Sequence[Any] = (),
    ) -> Estimate:
        form = expected.form or QuestionForm.read("")
        features = answer_features(form, signals)
        return self._judged(features, expected, flags)

    def judge_measures(self, measures: Mapping[str, float], flags: Sequence[str]) -> Estimate:
        """Return what judge() says, of the features that a table of answers keeps by name."""
        expected = self._expected([measures[name] for name in PROMPT_NAMES], None)
        return self._judged([measures[name] for name in NAMES], expected, flags)

    def _expected(self, features: Sequence[float], form: QuestionForm | None) -> PromptEstimate:
        near, far = (
            chance(scorer(features))
            for scorer in (self.file.near_by_prompt, self.file.far_by_prompt)
        )
        return PromptEstimate(near=near, far=far, form=form)

    def _judged(
        self, features: Sequence[float], expected: PromptEstimate, flags: Sequence[str]
    ) -> Estimate:
        score = self.file.near(features)
        if flags:
            score = min(score, log_odds(UNSEEN_RIGHT))
        return Estimate(score=score, right=chance(score), far=expected.far)

    def gives_up(self, signals: Signals, expected: PromptEstimate, limit: Limit) -> bool:
        return False  # the answer proper comes last, and where it is unsure tells most

    def seen_needs(self) -> list[float]:
        return list(self.file.needs)

    def limit(self, aim: Aim, *, min_gain: float | None = None, cost: float = 0.0) -> Limit:
        refuse_promises(aim)
        least = self.file.min_gain if min_gain is None else min_gain
        return Limit(max_need=least + cost)


@functools.cache
def first_day() -> FirstDayRule:
    """Return the rule that ships."""
    return load_first_day(SHIPPED)


def load_first_day(path: Path) -> FirstDayRule:
    """Read a rule's weights. Raises SettingsError where they are damaged or of another age."""
    try:
        file = msgspec.json.decode(path.read_bytes(), type=FirstDayFile)
    except (OSError, msgspec.MsgspecError) as error:
        raise SettingsError(
            f"the rule {path} cannot be read ({cause(error)}); install nearfar again"
        ) from None
    fits = (file.near.names, file.near_by_prompt.names, file.far_by_prompt.names)
    if file.version != VERSION or fits != (NAMES, PROMPT_NAMES, PROMPT_NAMES):
        raise SettingsError(
            f"the rule {path} is of another version than this nearfar; install nearfar again"
        )
    return FirstDayRule(file)
