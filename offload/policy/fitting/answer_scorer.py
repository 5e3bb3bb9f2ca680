"""Refit of the first day's rule to one model: few labels move its weights a little.

The ridge draws to the shipped weights instead of to zero, so that features which say nothing on
these questions keep what other models taught (a Gaussian prior: MAP estimation, Bishop 2006,
section 4.5).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from offload.policy.fitting import deferral_curve
from offload.policy.fitting.answer_table import AnswerRow
from offload.policy.serving.answer_features import NAMES, SIGNS
from offload.policy.serving.features import Floats, Ints
from offload.policy.serving.logistic import Scorer, sigmoid

PENALTIES = (10.0, 30.0, 100.0, 300.0)
_SIGNS = np.array(list(SIGNS.values()), dtype=np.float64)
_LEAST_SPREAD = 0.05  # a feature that hardly varies is not blown up
_STEPS = 600


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


def fit_signed(
    names: tuple[str, ...],
    rows: Floats,
    labels: Floats,
    signs: Floats,
    *,
    penalty: float,
    weights: Floats | None = None,
    prior: Floats | None = None,
) -> Scorer:
    """Fit P(label = 1) by projected gradient steps with momentum (FISTA, Beck and Teboulle 2009).

    rows: [rows, features]; signs: [features], 1 for weights of at least 0, -1 for at most 0, 0 for
    any. The ridge `penalty` draws the weights of standardised features to those of `prior`
    [features], 0 without one; the bias is free.
    """
    weights = np.ones(len(labels)) if weights is None else weights
    centre, scale = rows.mean(axis=0), np.maximum(rows.std(axis=0), _LEAST_SPREAD)
    standard = (rows - centre) / scale
    wanted = np.zeros(rows.shape[1]) if prior is None else prior * scale
    share = float((weights @ labels + 0.5) / (weights.sum() + 1.0))
    solved, ahead = np.zeros(rows.shape[1]), np.zeros(rows.shape[1])
    bias, momentum = float(np.log(share / (1.0 - share))), 1.0
    steepness = 0.25 * np.linalg.norm(standard * np.sqrt(weights)[:, None], 2) ** 2 + penalty
    for _ in range(_STEPS):
        wrong = weights * (sigmoid(standard @ ahead + bias) - labels)
        found = _projected(
            ahead - (standard.T @ wrong + penalty * (ahead - wanted)) / steepness, signs
        )
        bias -= float(wrong.sum() / (0.25 * weights.sum()))
        following = (1.0 + np.sqrt(1.0 + 4.0 * momentum**2)) / 2.0
        ahead = found + (momentum - 1.0) / following * (found - solved)
        moved, solved, momentum = float(np.abs(found - solved).max()), found, following
        if moved < 1e-5:
            break
    plain = solved / scale
    return Scorer(
        names=names,
        weights=tuple(float(each) for each in plain),
        bias=bias - float(plain @ centre),
    )


def _projected(weights: Floats, signs: Floats) -> Floats:
    low = np.where(signs > 0, 0.0, -np.inf)
    high = np.where(signs < 0, 0.0, np.inf)
    return np.clip(weights, low, high)
