"""The probe learns, is differentiated rightly, and survives the disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from offload.errors import SettingsError
from offload.policy.fitting.deferral_curve import auroc
from offload.policy.fitting.probe_fit import ProbeOptions, Trainer, fit_probe
from offload.policy.serving.logistic import sigmoid
from offload.policy.serving.probe import load_probe, save_probe


def _answers(seed: int, number: int = 200) -> tuple[list[np.ndarray], list[bool]]:
    """One token of each answer, anywhere in it, carries whether it is right."""
    generator, answers, right = np.random.default_rng(seed), [], []
    for _ in range(number):
        rows = generator.normal(0, 0.5, (int(generator.integers(2, 9)), 12)).astype(np.float32)
        truth = bool(generator.random() < 0.5)
        rows[generator.integers(len(rows)), :2] = [3.0, 2.0 if truth else -2.0]
        answers.append(rows)
        right.append(truth)
    return answers, right


def test_it_finds_the_token_that_tells() -> None:
    probe = fit_probe(*_answers(0))
    answers, right = _answers(1)
    scores = np.array([probe.score(list(each)) for each in answers])
    assert auroc(scores, np.array(right, dtype=float)) > 0.95


def test_its_gradients_are_those_of_the_loss() -> None:
    generator = np.random.default_rng(2)
    rows, labels = generator.normal(size=(5, 4, 6)), generator.integers(0, 2, 5).astype(float)
    mask = np.array([[1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1.0]])
    trainer = Trainer(6, np.zeros(6), np.ones(6), ProbeOptions(width=3))
    for name, each in trainer.weights.items():
        trainer.weights[name] = generator.normal(size=each.shape)
    slopes = trainer.slopes(rows, mask, labels)

    def loss() -> float:
        chance = sigmoid(trainer.probe.forward(rows, mask)[0])
        return float(-np.mean(labels * np.log(chance) + (1 - labels) * np.log(1 - chance)))

    for name, each in trainer.weights.items():
        at = tuple(generator.integers(0, size) for size in each.shape)
        before = each[at]
        each[at] = before + 1e-5
        above = loss()
        each[at] = before - 1e-5
        slope = (above - loss()) / 2e-5
        each[at] = before
        assert slopes[name][at] == pytest.approx(slope, abs=1e-6), name


def test_a_saved_probe_says_the_same_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    answers, right = _answers(3, 60)
    probe, path = fit_probe(answers, right, ProbeOptions(epochs=3)), tmp_path / "a.probe.npz"
    save_probe(probe, path)
    said = load_probe(path).score(list(answers[0]))
    assert said == pytest.approx(probe.score(list(answers[0])), abs=1e-4)
    with pytest.raises(SettingsError, match="states of 12 numbers"):
        probe.score([np.zeros(5)])
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(SettingsError, match="calibrate again"):
        load_probe(path)
