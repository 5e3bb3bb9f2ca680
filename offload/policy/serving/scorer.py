"""A weighted sum of features: what calibration fits, and what is worked out at every checkpoint."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from offload.errors import RequestError
from offload.messages import Word
from offload.policy.serving.features import Floats
from offload.policy.serving.logistic import sigmoid


class Scorer(Word, frozen=True, kw_only=True):
    """One number from a row of features, in log odds; features are used as `names` orders them."""

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
        solved = _newton(standard, labels, solved, penalty)
    weights = solved[:-1] / scale
    return Scorer(
        names=tuple(names),
        weights=tuple(float(each) for each in weights),
        bias=float(solved[-1] - weights @ centre),
    )


def _newton(standard: Floats, labels: Floats, start: Floats, penalty: float) -> Floats:
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
