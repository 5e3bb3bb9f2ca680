"""Logistic regression whose weights may be kept from turning against their sign."""

from __future__ import annotations

import numpy as np

from offload.policy.serving.features import Floats
from offload.policy.serving.logistic import Scorer, sigmoid

_LEAST_SPREAD = 0.05  # a feature that hardly varies is not blown up
_STEPS = 600


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
