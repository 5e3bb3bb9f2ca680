from __future__ import annotations

import numpy as np
import pytest

from offload.policy.serving.features import Floats
from offload.policy.serving.logistic import (
    Head,
    fit_head,
    leave_one_out_errors,
    objective,
    sigmoid,
)


def _problem(num_rows: int = 80, seed: int = 0) -> tuple[Floats, Floats]:
    generator = np.random.default_rng(seed)
    rows = generator.standard_normal((num_rows, 5))
    labels = (generator.random(num_rows) < sigmoid(2.0 * rows[:, 0] - 1.0)).astype(np.float64)
    return rows @ rows.T, labels


def test_sigmoid_does_not_overflow() -> None:
    assert sigmoid(np.array([-1e4, 0.0, 1e4])).tolist() == [0.0, 0.5, 1.0]


def test_the_fit_is_the_minimum_in_every_direction() -> None:
    gram, labels = _problem()
    share = (labels.sum() + 0.5) / (len(labels) + 1.0)
    penalty = 3.0 * share * (1.0 - share)
    head = fit_head(gram, labels, 3.0)
    least = objective(gram, labels, penalty, head)
    generator = np.random.default_rng(1)
    for _ in range(50):
        step = 1e-2 * generator.standard_normal(len(labels))
        moved = Head(head.weights + step, head.bias + float(step[0]))
        assert objective(gram, labels, penalty, moved) >= least - 1e-6


def test_mean_probability_equals_the_share_of_ones() -> None:
    gram, labels = _problem()
    head = fit_head(gram, labels, 1.0)
    assert sigmoid(gram @ head.weights + head.bias).mean() == pytest.approx(labels.mean(), abs=1e-4)


def test_separable_labels_do_not_diverge() -> None:
    rows = np.linspace(-1.0, 1.0, 40)[:, None]
    head = fit_head(rows @ rows.T, (rows[:, 0] > 0).astype(np.float64), 1e-3)
    assert np.isfinite(head.weights).all() and np.isfinite(head.bias)


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_one_class_gives_the_smoothed_share(label: float) -> None:
    head = fit_head(np.eye(9), np.full(9, label), 1.0)
    assert not head.weights.any()
    assert float(sigmoid(np.array(head.bias))) == pytest.approx(abs(0.05 - label), abs=1e-9)


def test_leave_one_out_equals_refitting_without_each_row() -> None:
    gram, labels = _problem(30)
    centred, slow = labels - labels.mean(), []
    for row in range(len(labels)):
        kept = np.delete(np.arange(len(labels)), row)
        system = gram[np.ix_(kept, kept)] + 2.0 * np.eye(len(kept))
        guess = gram[row, kept] @ np.linalg.solve(system, centred[kept])
        slow.append((centred[row] - guess) ** 2)
    assert leave_one_out_errors(gram, labels, [2.0])[0] == pytest.approx(np.mean(slow))


def test_the_fit_is_deterministic() -> None:
    gram, labels = _problem()
    assert np.array_equal(fit_head(gram, labels, 1.0).weights, fit_head(gram, labels, 1.0).weights)
