"""Kernel of two prompts: Gaussian in what is measured of them, linear in their n-grams.

The Gaussian parts find regions ("a long passage with four short choices"), the linear part
finds words; their sum is again a kernel. The linear part folds into one weight per n-gram, so
that a prediction costs the n-grams of one prompt and a few thousand multiplications.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from offload.policy.serving.answer_checks import answer_measures
from offload.policy.serving.features import Floats, ReadText, TfIdf
from offload.policy.serving.prompt_measures import form_measures, quantity_measures

NGRAM_WEIGHT = 0.15  # of each kind of n-gram, beside the groups of measures
_CLIP = 3.0  # standard deviations; a measure far outside the fit set says no more than that
GROUP_WEIGHTS = {"form": 1.0, "quantities": 0.3, "answer": 1.0}
BANDWIDTHS = {"form": 1.0, "quantities": 0.3, "answer": 0.3}


@dataclass(frozen=True)
class MeasureGroup:
    """Group of measures, standardised on the unlabelled texts; `centre`, `scale` [measures]."""

    group: str
    centre: Floats
    scale: Floats

    @classmethod
    def fit(cls, group: str, rows: Floats) -> MeasureGroup:
        """Learn the mean and the spread of each measure from `rows` [texts, measures]."""
        return cls(group, rows.mean(axis=0), np.maximum(rows.std(axis=0), 1e-9))

    def standardised(self, rows: Floats) -> Floats:
        """Return `rows` in standard deviations, scaled so that distances need no bandwidth."""
        clipped = np.clip((rows - self.centre) / self.scale, -_CLIP, _CLIP)
        return np.asarray(clipped * np.sqrt(BANDWIDTHS[self.group] / rows.shape[-1]))


@dataclass(frozen=True)
class SupportRows:
    """Labelled rows of one group, standardised [rows, measures], and their squared lengths."""

    rows: Floats
    squares: Floats
    weight: float

    @classmethod
    def of(cls, group: str, rows: Floats) -> SupportRows:
        """Keep `rows` with what is needed of them at every prediction."""
        return cls(rows, (rows**2).sum(axis=1), GROUP_WEIGHTS[group])

    def alike(self, others: Floats) -> Floats:
        """Return weight * exp(-squared distance) of each of `others` to each row, [..., rows]."""
        squared = (others**2).sum(axis=-1)[..., None] + self.squares - 2.0 * others @ self.rows.T
        return np.asarray(self.weight * np.exp(-np.maximum(squared, 0.0)))


def measure(group: str, prompt: ReadText, answer: ReadText) -> Floats:
    """Return one group's measures of one prompt and the answer to it."""
    if group == "form":
        return form_measures(prompt)
    if group == "quantities":
        return quantity_measures(prompt)
    return answer_measures(prompt, answer)


def measure_all(group: str, prompts: Sequence[ReadText], answers: Sequence[ReadText]) -> Floats:
    """Return one group's measures of many prompts, [texts, measures]."""
    pairs = zip(prompts, answers, strict=True)
    return np.array([measure(group, prompt, answer) for prompt, answer in pairs])


def fit_grams(readings: Sequence[ReadText]) -> tuple[TfIdf, ...]:
    """Learn both kinds of n-grams from unlabelled texts."""
    min_rows = 3 if len(readings) >= 1000 else 2
    return tuple(TfIdf.fit(kind, readings, min_rows=min_rows) for kind in ("words", "chars"))
