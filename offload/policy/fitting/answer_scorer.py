"""Refits the rule of the first day to one model: few labels move its weights a little.

The ridge draws to the shipped weights instead of to zero, so that features which say nothing on
these questions keep what other models taught (a Gaussian prior: MAP estimation, Bishop 2006,
section 4.5).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from offload.policy.fitting import deferral_curve
from offload.policy.fitting.answer_table import AnswerRow
from offload.policy.fitting.signed_logistic import fit_signed
from offload.policy.serving.answer_features import NAMES, SIGNS
from offload.policy.serving.features import Floats, Ints
from offload.policy.serving.logistic import Scorer

PENALTIES = (10.0, 30.0, 100.0, 300.0)
_SIGNS = np.array(list(SIGNS.values()), dtype=np.float64)


def fit_to_answers(
    rows: Sequence[AnswerRow], folds: Ints, *, beside: Floats, start: Scorer
) -> Scorer | None:
    """Return the first day's weights fitted to these answers, where that is the better score.

    folds: [rows], the part that each row is left out with. beside: [rows], the cross-validated
    score that it must rank better than (AUROC). None where it does not, or where the rows keep no
    measures.
    """
    if not all(row.measures.keys() >= set(NAMES) for row in rows):
        return None
    features = np.array([[row.measures[name] for name in NAMES] for row in rows])
    right = np.array([row.right for row in rows], dtype=np.float64)
    tried = {each: _crossed(features, right, folds, each, start) for each in PENALTIES}
    best = min(tried, key=lambda each: _loss(tried[each], right))
    if deferral_curve.auroc(tried[best], right) <= deferral_curve.auroc(beside, right):
        return None
    return _fit(features, right, best, start)


def _fit(features: Floats, right: Floats, penalty: float, start: Scorer) -> Scorer:
    prior = np.array(start.weights)
    return fit_signed(NAMES, features, right, _SIGNS, penalty=penalty, prior=prior)


def _crossed(features: Floats, right: Floats, folds: Ints, penalty: float, start: Scorer) -> Floats:
    scores = np.zeros(len(right))
    for fold in np.unique(folds):
        scorer = _fit(features[folds != fold], right[folds != fold], penalty, start)
        scores[folds == fold] = scorer.many(features[folds == fold])
    return scores


def _loss(scores: Floats, right: Floats) -> float:
    return float(np.mean(np.logaddexp(0.0, scores) - right * scores))
