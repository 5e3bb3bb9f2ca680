"""Logistic regression: linear on a row of features, and in the dual on any positive kernel.

With some thousand labels and many more features the dual is the small side of the problem, and
Newton's method solves it exactly in a few steps (Zhu and Hastie 2005, Kernel Logistic Regression).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from offload.errors import RequestError
from offload.messages import BaseStruct
from offload.policy.serving.features import Floats

STRENGTHS = (1.0, 3.0, 10.0)  # more smoothing than this flattened the ranking


@dataclass(frozen=True)
class Head:
    """Head of kernel logistic regression: sigmoid(kernel @ weights + bias); weights [rows]."""

    weights: Floats
    bias: float


def sigmoid(values: Floats) -> Floats:
    """Return 1 / (1 + exp(-values)) without overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * values))


def chance(score: float) -> float:
    """Return the probability of a score in log odds."""
    return 0.5 * (1.0 + math.tanh(0.5 * score))


def log_odds(probability: float) -> float:
    """Return log(p / (1 - p)), kept within 12 of zero."""
    inside = min(max(probability, 6e-6), 1.0 - 6e-6)
    return math.log(inside / (1.0 - inside))


def fit_head(gram: Floats, labels: Floats, strength: float, *, max_steps: int = 30) -> Head:
    """Fit P(label = 1) by Newton steps on the L2-penalised log-likelihood.

    `gram` is [rows, rows], `labels` 0 or 1; `strength` is that of a ridge on the same kernel,
    scaled by the labels' variance. Labels of one class give the smoothed share everywhere.
    """
    share = (labels.sum() + 0.5) / (len(labels) + 1.0)
    head = Head(np.zeros(len(labels)), float(np.log(share / (1.0 - share))))
    if labels.min() == labels.max():
        return head
    penalty = strength * share * (1.0 - share)
    for _ in range(max_steps):
        step = _newton(gram, labels, penalty, head)
        head, change = _shortened(gram, labels, penalty, head, step)
        if change < 1e-7 * len(labels):
            break
    return head


def leave_one_out_errors(gram: Floats, targets: Floats, strengths: Sequence[float]) -> Floats:
    """Return the mean squared error of each row predicted from all others, per ridge strength.

    Exact and without refitting: the residual over one minus the hat matrix's diagonal
    (Hastie, Tibshirani and Friedman, section 7.10), the mean of the targets held fixed.
    """
    values, vectors = np.linalg.eigh(gram)
    centred = targets - targets.mean()
    along, squared = vectors.T @ centred, vectors**2
    errors = []
    for strength in strengths:
        kept = values / (values + strength)
        residual = (centred - vectors @ (kept * along)) / (1.0 - squared @ kept)
        errors.append(float(np.mean(residual**2)))
    return np.array(errors)


def objective(gram: Floats, labels: Floats, penalty: float, head: Head) -> float:
    """Return the penalised negative log-likelihood that `fit_head` makes small."""
    smooth = gram @ head.weights
    score = smooth + head.bias
    return float(
        np.sum(np.logaddexp(0.0, score) - labels * score) + penalty / 2 * (head.weights @ smooth)
    )


def _newton(gram: Floats, labels: Floats, penalty: float, head: Head) -> Head:
    """Return where a full Newton step leads: a weighted ridge with a free intercept."""
    score = gram @ head.weights + head.bias
    probability = sigmoid(score)
    curvature = np.maximum(probability * (1.0 - probability), 1e-6)
    working = score + (labels - probability) / curvature
    system = gram + np.diag(penalty / curvature)
    solved = np.linalg.solve(system, np.column_stack([working, np.ones(len(labels))]))
    bias = solved[:, 0].sum() / solved[:, 1].sum()
    return Head(solved[:, 0] - bias * solved[:, 1], float(bias))


def _shortened(
    gram: Floats, labels: Floats, penalty: float, start: Head, full: Head
) -> tuple[Head, float]:
    """Halve a step until it goes downhill; returns the new head and how far it went down."""
    before = objective(gram, labels, penalty, start)
    for halvings in range(20):
        part = 0.5**halvings
        weights = start.weights + part * (full.weights - start.weights)
        head = Head(weights, start.bias + part * (full.bias - start.bias))
        gained = before - objective(gram, labels, penalty, head)
        if gained >= 0.0:
            return head, gained
    return start, 0.0


class Scorer(BaseStruct, frozen=True, kw_only=True):
    """Linear scorer: log odds of a row of features, which stand in the order of `names`."""

    names: tuple[str, ...]
    weights: tuple[float, ...]
    bias: float

    def __post_init__(self) -> None:
        if len(self.names) != len(self.weights):
            raise RequestError(
                f"{len(self.names)} names and {len(self.weights)} weights do not fit together; "
                "calibrate again"
            )

    def __call__(self, features: Sequence[float]) -> float:
        """Return the score of one row."""
        return self.bias + sum(
            [weight * value for weight, value in zip(self.weights, features, strict=True)]
        )

    def many(self, rows: Floats) -> Floats:
        """Return the scores of rows [rows, features]."""
        return np.asarray(rows @ np.array(self.weights) + self.bias)


def fit_scorer(
    names: Sequence[str], rows: Floats, labels: Floats, *, penalty: float = 3.0
) -> Scorer:
    """Fit a logistic regression by Newton's method; the ridge acts on standardised features.

    Labels of one class give a scorer that says their smoothed share everywhere.
    """
    centre, scale = rows.mean(axis=0), np.maximum(rows.std(axis=0), 1e-6)
    standard = np.column_stack([(rows - centre) / scale, np.ones(len(rows))])
    share = (labels.sum() + 0.5) / (len(labels) + 1.0)
    solved = np.zeros(standard.shape[1])
    solved[-1] = np.log(share / (1.0 - share))
    if labels.min() != labels.max():
        solved = _linear_newton(standard, labels, solved, penalty)
    weights = solved[:-1] / scale
    return Scorer(
        names=tuple(names),
        weights=tuple(float(each) for each in weights),
        bias=float(solved[-1] - weights @ centre),
    )


def _linear_newton(standard: Floats, labels: Floats, start: Floats, penalty: float) -> Floats:
    ridge = penalty * np.eye(len(start))
    ridge[-1, -1] = 0.0  # the bias is free
    solved = start
    for _ in range(50):
        chance = sigmoid(standard @ solved)
        slope = standard.T @ (chance - labels) + ridge @ solved
        curvature = (standard * (chance * (1.0 - chance) + 1e-9)[:, None]).T @ standard + ridge
        step = np.linalg.solve(curvature, slope)
        # Steps are kept short: far from the solution the curvature says too little.
        solved = solved - step * min(1.0, 4.0 / max(1e-12, float(np.abs(step).max())))
        if np.abs(step).max() < 1e-9:
            break
    return solved
