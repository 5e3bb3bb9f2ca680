"""Calibration: a policy fitted to half of the labelled questions, its thresholds to the rest.

Nothing of a score is fitted on the held half, which is what the guarantee of its thresholds rests
on (offload/policy/serving/calibration_math.py). Where the prompt's or the probe's score is itself a
feature, the fitted half has it by cross-fitting, so that it means the same on new questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from offload.errors import RequestError
from offload.policy.fitting import deferral_curve
from offload.policy.fitting.answer_scorer import fit_to_answers
from offload.policy.fitting.answer_table import mark_of
from offload.policy.fitting.labelled_questions import LabelledRow
from offload.policy.fitting.probe_fit import NUM_FOLDS, crossed, try_probe
from offload.policy.fitting.questions import Question
from offload.policy.fitting.thresholds import (
    crossed_isotonic,
    far_accuracy,
    fit_early,
    fit_far_at_once_gain,
    least_gain,
    truth_behind,
)
from offload.policy.serving.calibrated import CalibratedRule
from offload.policy.serving.calibration_math import Isotonic, fit_isotonic
from offload.policy.serving.features import Floats, Ints
from offload.policy.serving.first_day import first_day
from offload.policy.serving.logistic import Scorer, fit_scorer, log_odds
from offload.policy.serving.policy_file import (
    VERSION,
    EarlyBounds,
    HeldOutFigures,
    HeldOutQuestions,
    Pairing,
    PolicyFile,
)
from offload.policy.serving.prior import MAX_LABELS, MIN_LABELS, Prior
from offload.policy.serving.rule import Estimate
from offload.policy.serving.signals import NAMES

MIN_QUESTIONS = 2 * MIN_LABELS


@dataclass(frozen=True, kw_only=True)
class CalibrationOptions:
    """Options of calibration: what is guaranteed, and what is tried.

    alpha, delta: P(wrong | kept near) <= alpha with probability 1 - delta, for `auto-w`. quality:
    how often plain `auto` should be right, beside the cloud. early_error: which share of the
    answers worth keeping may be given up unfinished.
    """

    alpha: float = 0.05
    delta: float = 0.05
    quality: float = 0.985
    early_error: float = 0.03
    use_probe: bool = True
    max_prior_labels: int = MAX_LABELS
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("alpha", "delta", "quality"):
            if not 0.0 < getattr(self, name) < 1.0:
                raise RequestError(f"{name} is {getattr(self, name)}; it must lie between 0 and 1")


@dataclass(frozen=True)
class _Half:
    """Half of the labelled questions, with their rows."""

    prompts: list[str]
    rows: list[LabelledRow]

    @property
    def near(self) -> Floats:
        return np.array([row.near_right for row in self.rows], dtype=np.float64)

    @property
    def far(self) -> Floats:
        return np.array([row.far_right for row in self.rows], dtype=np.float64)


def calibrate(
    questions: Sequence[Question],
    rows: Sequence[LabelledRow],
    pairing: Pairing,
    options: CalibrationOptions | None = None,
    *,
    start: Scorer | None = None,
    by_agreement: bool = False,
) -> CalibratedRule:
    """Fit a policy. Raises RequestError for labels that teach nothing, with what would.

    start: the weights of answer features that few labels may change little; those of the rule of
    the first day unless given. by_agreement: the labels say whether the near answer agrees with the
    far one, which is not always right; how often it is, is told by those labels (far_accuracy).
    """
    options = options or CalibrationOptions()
    _check(rows)
    order = np.random.default_rng(options.seed).permutation(len(rows))
    fit, held = (_half(questions, rows, part) for part in np.array_split(order, 2))
    folds = np.arange(len(fit.rows)) % NUM_FOLDS
    prior, near_odds = _fit_prior(fit, folds, options)
    features = _features(fit, near_odds)
    early_scorer = fit_scorer((*NAMES, "prior"), features, fit.near)
    probe, final_scorer, why = None, None, "not tried"
    answer_scorer = fit_to_answers(
        [row.near for row in fit.rows],
        folds,
        beside=crossed((*NAMES, "prior"), features, fit.near, folds),
        start=start or first_day().file.near,
    )
    if options.use_probe and answer_scorer is None:
        probe, final_scorer, why = try_probe(fit.rows, folds, features, seed=options.seed)
    draft = PolicyFile(
        version=VERSION,
        pairing=pairing,
        found=HeldOutFigures(
            num_fitted=len(fit.rows),
            num_held=len(held.rows),
            edge_accuracy=float(np.mean([row.near_right for row in rows])),
            cloud_accuracy=float(np.mean([row.far_right for row in rows])),
            auroc=0.5,
            ece=0.0,
            probe=why,
        ),
        early_scorer=early_scorer,
        final_scorer=early_scorer if final_scorer is None else final_scorer,
        near=_EVEN,
        far=_EVEN,
        early=EarlyBounds(levels=(), checkpoints=(), bounds=()),
        held=HeldOutQuestions(scores=(), gains=(), near_right=(), far_right=()),
        flags=_flag_counts(fit.rows),
        min_gain=0.0,
        far_at_once_gain=None,
        alpha=options.alpha,
        delta=options.delta,
        has_prior=True,
        has_probe=probe is not None,
        answer_scorer=answer_scorer,
        questions=tuple(sorted({mark for row in rows if (mark := mark_of(row.near))})),
    )
    rule = CalibratedRule(draft, prior, probe)
    rule = _with(rule, **_probabilities(rule, held))
    if by_agreement:
        rule = _with(rule, far=_far_by_agreement(rule, held))
    rule = _with(rule, **_thresholds(rule, held, options, by_agreement=by_agreement))
    kept = [rule.policy.near(score) for score in early_scorer.many(features)]
    return _with(
        rule, early=fit_early(fit.rows, near_odds, kept, early_scorer, options.early_error)
    )


_EVEN = Isotonic(scores=(0.0,), probabilities=(0.5,))


def _with(rule: CalibratedRule, **changes: object) -> CalibratedRule:
    return CalibratedRule(msgspec.structs.replace(rule.policy, **changes), rule.prior, rule.probe)


def judged(rule: CalibratedRule, prompt: str, row: LabelledRow) -> Estimate:
    """Return what a rule says of a labelled answer, as it would while serving."""
    expected = rule.expect(prompt)
    if rule.policy.answer_scorer is not None and row.near.measures:
        return rule.judge_measures(row.near.measures, expected, row.near.flags)
    states = list(row.near.hidden_states()) if rule.probe is not None else []
    return rule.judge(row.near.signals(), expected, flags=row.near.flags, states=states)


def _check(rows: Sequence[LabelledRow]) -> None:
    if len(rows) < MIN_QUESTIONS:
        raise RequestError(
            f"{len(rows)} labelled questions are too few to calibrate on; "
            f"give at least {MIN_QUESTIONS}, better 500"
        )
    right = sum(row.near_right for row in rows)
    few = min(right, len(rows) - right)
    if few < 10:
        raise RequestError(
            f"the near model is right on {right} of {len(rows)} questions; give questions of "
            "which it gets at least 10 right and 10 wrong"
        )


def _half(questions: Sequence[Question], rows: Sequence[LabelledRow], part: Ints) -> _Half:
    return _Half([questions[place].question for place in part], [rows[place] for place in part])


def _fit_prior(fit: _Half, folds: Ints, options: CalibrationOptions) -> tuple[Prior, list[float]]:
    """Return the prior, and for each row the log odds that the others' prior gives it."""
    odds = np.zeros(len(fit.rows))

    def fitted(places: Ints) -> Prior:
        kept = places[: options.max_prior_labels]
        return Prior.fit(
            [fit.prompts[place] for place in kept],
            [fit.rows[place].near_right for place in kept],
            [fit.rows[place].far_right for place in kept],
            unlabelled=[fit.prompts[place] for place in places[options.max_prior_labels :]],
        )

    for fold in range(NUM_FOLDS):
        part = fitted(np.flatnonzero(folds != fold))
        for place in np.flatnonzero(folds == fold):
            odds[place] = log_odds(part.probabilities(fit.prompts[place])[0])
    return fitted(np.arange(len(fit.rows))), [float(each) for each in odds]


def _features(half: _Half, near_odds: Sequence[float]) -> Floats:
    rows = [
        [*row.near.signals().features(), odds]
        for row, odds in zip(half.rows, near_odds, strict=True)
    ]
    return np.array(rows)


def _flag_counts(rows: Sequence[LabelledRow]) -> dict[str, tuple[int, int]]:
    counts: dict[str, tuple[int, int]] = {}
    for row in rows:
        for flag in row.near.flags:
            number, right = counts.get(flag, (0, 0))
            counts[flag] = (number + 1, right + row.near_right)
    return counts


def _probabilities(rule: CalibratedRule, held: _Half) -> dict[str, Isotonic]:
    assert rule.prior is not None, "a calibration always has a prior"
    scores = [judged(rule, *each).score for each in zip(held.prompts, held.rows, strict=True)]
    odds = [log_odds(rule.prior.probabilities(prompt)[1]) for prompt in held.prompts]
    return {
        "near": fit_isotonic(scores, [row.near_right for row in held.rows]),
        "far": fit_isotonic(odds, [row.far_right for row in held.rows]),
    }


def _far_by_agreement(rule: CalibratedRule, held: _Half) -> Isotonic:
    scores = [judged(rule, *each).score for each in zip(held.prompts, held.rows, strict=True)]
    return Isotonic(scores=(0.0,), probabilities=(far_accuracy(scores, held.near),))


def _thresholds(
    rule: CalibratedRule, held: _Half, options: CalibrationOptions, *, by_agreement: bool
) -> dict[str, object]:
    said = [judged(rule, *each) for each in zip(held.prompts, held.rows, strict=True)]
    scores = [each.score for each in said]
    gains = [each.need for each in said]
    right = [row.near_right for row in held.rows]
    expected = [rule.expect(prompt).gain or 0.0 for prompt in held.prompts]
    near, far = held.near, held.far
    cloud_accuracy = rule.policy.found.cloud_accuracy
    if by_agreement:
        cloud_accuracy = rule.policy.far(0.0)
        near, far = truth_behind(near, crossed_isotonic(scores, right), cloud_accuracy)
    min_gain = least_gain(gains, near, far, options.quality)
    found = msgspec.structs.replace(
        rule.policy.found,
        cloud_accuracy=cloud_accuracy,
        auroc=deferral_curve.auroc(np.array(scores), held.near),
        ece=deferral_curve.ece(crossed_isotonic(scores, right), held.near),
    )
    return {
        "found": found,
        "held": HeldOutQuestions(
            scores=tuple(scores),
            gains=tuple(gains),
            near_right=tuple(right),
            far_right=tuple(row.far_right for row in held.rows),
        ),
        "min_gain": min_gain,
        "far_at_once_gain": fit_far_at_once_gain(expected, gains, min_gain),
    }
