"""Prior of a prompt: P(near right) and P(far right) before anything is generated, and its file.

Two heads, P(near right) and P(far right), and the gain is their difference: predicting the
gain beats predicting the near model's errors, since many questions fail on both sides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from backbone.errors import cause
from backbone.files import SHARED, replacement
from offload.errors import RequestError, SettingsError
from offload.policy.serving.features import GRAMS, NUM_BUCKETS, Floats, ReadText, TfIdf
from offload.policy.serving.kernel import (
    BANDWIDTHS,
    NGRAM_WEIGHT,
    MeasureGroup,
    SupportRows,
    fit_grams,
    measure,
    measure_all,
)
from offload.policy.serving.logistic import (
    STRENGTHS,
    Head,
    fit_head,
    leave_one_out_errors,
    sigmoid,
)
from offload.policy.serving.prompt_measures import form_measures, quantity_measures
from offload.policy.serving.stored_arrays import read_arrays

MIN_LABELS = 50
MAX_LABELS = 4000  # the time to fit grows with the cube
VERSION = 1
_Arrays = Mapping[str, npt.NDArray[Any]]


class GainPredictor(Protocol):
    """Predictor of what the cloud would gain on a prompt, -1 to 1."""

    def gain(self, prompt: str, answer: str = "") -> float:
        """Return P(far right) - P(near right)."""
        ...


class DefaultPrior:
    """Prior without labels, its weights set by hand.

    Small models slip where many quantities must be combined, and where a text is dense with
    signs; both sides know short common facts. The weights are set by hand and say only that.
    """

    def gain(self, prompt: str, answer: str = "") -> float:
        """Return a guess of P(far right) - P(near right), between 0.05 and 0.35."""
        read = ReadText(prompt)
        form, quantities = form_measures(read), quantity_measures(read)
        load = 0.5 * float(quantities[1]) + 4.0 * float(form[5]) + 0.3 * float(form[11])
        return 0.05 + 0.3 * float(np.tanh(0.4 * load))


@dataclass(frozen=True)
class Prior:
    """Prior, fitted; `supports` holds, per group of measures, the labelled rows [rows, measures].

    `gram_weights` is, per kind of n-gram, [n-grams, 2]; heads are ordered near, far.
    """

    groups: tuple[MeasureGroup, ...]
    supports: tuple[SupportRows, ...]
    grams: tuple[TfIdf, ...]
    gram_weights: tuple[Floats, ...]
    heads: tuple[Head, Head]
    strength: float

    @classmethod
    def fit(
        cls,
        prompts: Sequence[str],
        weak_correct: Sequence[bool],
        strong_correct: Sequence[bool],
        *,
        answers: Sequence[str] | None = None,
        unlabelled: Sequence[str] = (),
        use_measures: bool = True,
    ) -> Prior:
        """Fit on labelled prompts, and learn what texts look like from unlabelled ones too.

        `answers` are the near model's, where the prior is to read them as well. The strength
        is chosen by exact leave-one-out within the labels. Without `use_measures` only n-grams
        are read, which is plain tf-idf with two logistic heads. Raises RequestError for fewer than
        50 labels, unequal lengths, or a near model that is always or never right.
        """
        labels = _labels(prompts, weak_correct, strong_correct)
        read, others = _read(prompts), _read(unlabelled)
        answered = None if answers is None else _read(answers)
        groups, supports = _fit_groups(read, answered, others) if use_measures else ((), ())
        grams = fit_grams([*read, *others])
        sparse = [tfidf.rows(read) for tfidf in grams]
        gram = sum((each.alike(each.rows) for each in supports), np.zeros((len(read),) * 2))
        for rows in sparse:
            gram += NGRAM_WEIGHT * rows.gram()
        errors = leave_one_out_errors(gram, labels[1] - labels[0], STRENGTHS)
        strength = STRENGTHS[int(np.argmin(errors))]
        heads = (fit_head(gram, labels[0], strength), fit_head(gram, labels[1], strength))
        folded = [[rows.transposed_times(head.weights) for head in heads] for rows in sparse]
        weights = tuple(NGRAM_WEIGHT * np.column_stack(pair) for pair in folded)
        return cls(groups, supports, grams, weights, heads, strength)

    @cached_property
    def _stacked(self) -> tuple[Floats, Floats]:
        """Both heads' weights [2, rows] and biases [2], laid side by side once."""
        weights = np.array([head.weights for head in self.heads])
        return weights, np.array([head.bias for head in self.heads])

    @property
    def reads_answers(self) -> bool:
        """Whether the near model's answer is part of what it judges by."""
        return any(each.group == "answer" for each in self.groups)

    def probabilities(self, prompt: str, answer: str = "") -> tuple[float, float]:
        """Return P(near right) and P(far right)."""
        read, answered = ReadText(prompt), ReadText(answer)
        weights, biases = self._stacked
        scores = biases.copy()
        for group, support in zip(self.groups, self.supports, strict=True):
            mine = group.standardised(measure(group.group, read, answered))
            scores += weights @ support.alike(mine)
        for tfidf, each in zip(self.grams, self.gram_weights, strict=True):
            columns, values = tfidf.row(read)
            scores += values @ each[columns]
        near, far = sigmoid(scores)
        return float(near), float(far)

    def gain(self, prompt: str, answer: str = "") -> float:
        """Return P(far right) - P(near right) for one prompt, -1 to 1."""
        near, far = self.probabilities(prompt, answer)
        return far - near


def _read(texts: Sequence[str]) -> list[ReadText]:
    return [ReadText(text) for text in texts]


def _fit_groups(
    prompts: list[ReadText], answers: list[ReadText] | None, others: list[ReadText]
) -> tuple[tuple[MeasureGroup, ...], tuple[SupportRows, ...]]:
    groups, supports = [], []
    names = ("form", "quantities") if answers is None else ("form", "quantities", "answer")
    for name in names:
        rows = measure_all(name, prompts, answers or prompts)
        seen = rows if name == "answer" else np.vstack([rows, *_rows_of(name, others)])
        groups.append(MeasureGroup.fit(name, seen))
        supports.append(SupportRows.of(name, groups[-1].standardised(rows)))
    return tuple(groups), tuple(supports)


def _rows_of(group: str, others: list[ReadText]) -> list[Floats]:
    return [measure_all(group, others, others)] if others else []


def _labels(
    prompts: Sequence[str], weak: Sequence[bool], strong: Sequence[bool]
) -> npt.NDArray[np.float64]:
    """Return the labels as [2, rows], near first, or say why they teach nothing."""
    if not len(prompts) == len(weak) == len(strong):
        raise RequestError(
            f"{len(prompts)} prompts, {len(weak)} near and {len(strong)} far labels; "
            "give one of each per question"
        )
    if len(prompts) < MIN_LABELS:
        raise RequestError(
            f"{len(prompts)} labels are too few to learn from; give at least {MIN_LABELS}"
        )
    if len(prompts) > MAX_LABELS:
        raise RequestError(f"{len(prompts)} labels are too many; give at most {MAX_LABELS}")
    if len(set(weak)) == 1:
        raise RequestError(
            f"the near model is {'always' if weak[0] else 'never'} right in these labels; "
            "give questions of which it gets some right and some wrong"
        )
    return np.array([weak, strong], dtype=np.float64)


def save_prior(prior: Prior, path: Path) -> None:
    """Write a prior to `path`. Raises SettingsError where it cannot."""
    arrays: dict[str, Any] = {
        "version": np.array(VERSION),
        "strength": np.array(prior.strength),
        "weights": np.array([head.weights for head in prior.heads]),
        "biases": np.array([head.bias for head in prior.heads]),
    }
    for group, support in zip(prior.groups, prior.supports, strict=True):
        arrays[f"{group.group}.spread"] = np.array([group.centre, group.scale])
        arrays[f"{group.group}.rows"] = support.rows
    for tfidf, weights in zip(prior.grams, prior.gram_weights, strict=True):
        arrays[f"{tfidf.kind}.buckets"] = tfidf.buckets.astype(np.int32)
        arrays[f"{tfidf.kind}.idf"] = tfidf.idf
        arrays[f"{tfidf.kind}.weights"] = weights
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacement(path, mode=SHARED) as beside, beside.open("wb") as file:
            np.savez_compressed(file, **arrays)
    except OSError as error:
        raise SettingsError(f"{path} cannot be written ({error.strerror}); free it") from None


def load_prior(path: Path) -> Prior:
    """Read a prior that `save_prior` wrote. Raises SettingsError where it is not one."""
    try:
        return _built(read_arrays(path))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unreadable(path, error) from None


def _built(arrays: _Arrays) -> Prior:
    if int(arrays["version"]) != VERSION:
        raise ValueError(f"version {int(arrays['version'])}, this nearfar reads {VERSION}")
    weights, biases = arrays["weights"], arrays["biases"]
    if weights.ndim != 2 or len(weights) != 2 or biases.shape != (2,):
        raise ValueError("it has no two heads")
    groups = [name for name in BANDWIDTHS if f"{name}.rows" in arrays]
    return Prior(
        groups=tuple(MeasureGroup(name, *_spread(arrays, name)) for name in groups),
        supports=tuple(
            SupportRows.of(name, _rows(arrays, name, weights.shape[1])) for name in groups
        ),
        grams=tuple(_grams(arrays, kind) for kind in GRAMS),
        gram_weights=tuple(_checked(arrays, kind) for kind in GRAMS),
        heads=(Head(weights[0], float(biases[0])), Head(weights[1], float(biases[1]))),
        strength=float(arrays["strength"]),
    )


def _spread(arrays: _Arrays, group: str) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    spread, width = arrays[f"{group}.spread"], arrays[f"{group}.rows"].shape[-1]
    if spread.shape != (2, width):
        raise ValueError(f"the measures of {group} do not fit together")
    return spread[0], spread[1]


def _rows(arrays: _Arrays, group: str, num_labels: int) -> npt.NDArray[Any]:
    rows = arrays[f"{group}.rows"]
    if rows.ndim != 2 or len(rows) != num_labels:
        raise ValueError(f"the labelled rows of {group} do not fit the heads")
    return rows


def _grams(arrays: _Arrays, kind: str) -> TfIdf:
    buckets, idf = arrays[f"{kind}.buckets"].astype(np.int64), arrays[f"{kind}.idf"]
    if len(buckets) != len(idf) or (len(buckets) and not 0 <= buckets.min() <= buckets.max()):
        raise ValueError(f"the n-grams of {kind} do not fit together")
    if len(buckets) and buckets.max() >= NUM_BUCKETS:
        raise ValueError(f"the n-grams of {kind} are out of range")
    return TfIdf(kind, buckets, idf)


def _checked(arrays: _Arrays, kind: str) -> npt.NDArray[Any]:
    weights = arrays[f"{kind}.weights"]
    if weights.shape != (len(arrays[f"{kind}.buckets"]), 2):
        raise ValueError(f"the weights of {kind} do not fit its n-grams")
    return weights


def _unreadable(path: Path, error: Exception) -> SettingsError:
    return SettingsError(f"the prior {path} cannot be read ({cause(error)}); calibrate again")
