"""Training of the probe of hidden states, and its trial beside the other signals.

Trained with Adam (Kingma and Ba, arXiv 1412.6980) in plain numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from offload.policy.fitting import deferral_curve
from offload.policy.fitting.labelled_questions import LabelledRow
from offload.policy.serving.features import Floats, Ints
from offload.policy.serving.logistic import Scorer, fit_scorer, sigmoid
from offload.policy.serving.probe import MAX_TOKENS, Probe
from offload.policy.serving.signals import NAMES

NUM_FOLDS = 5


@dataclass(frozen=True, kw_only=True)
class ProbeOptions:
    """Options of training a probe; chosen by cross-validation, never on the held-out questions."""

    width: int = 32
    epochs: int = 40
    batch_size: int = 32
    rate: float = 2e-3
    decay: float = 0.05
    seed: int = 0


def try_probe(
    rows: Sequence[LabelledRow], folds: Ints, features: Floats, *, seed: int
) -> tuple[Probe | None, Scorer | None, str]:
    """Return the probe and the scorer that reads it, if cross-validation wants it, and why.

    `folds` says which of NUM_FOLDS folds each row is in, `features` are float64 [rows, features].
    """
    if any(not row.near.states for row in rows):
        return None, None, "not tried: this near engine does not show its hidden states"
    states, right = [row.near.hidden_states() for row in rows], [row.near_right for row in rows]
    labels = np.array(right, dtype=np.float64)
    said = np.zeros(len(states))
    for fold in range(NUM_FOLDS):
        inside = np.flatnonzero(folds != fold)
        probe = fit_probe([states[at] for at in inside], [right[at] for at in inside])
        for place in np.flatnonzero(folds == fold):
            said[place] = probe.score(list(states[place]))
    wider, names = np.column_stack([features, said]), (*NAMES, "prior", "probe")
    with_it = crossed(names, wider, labels, folds)
    without = crossed(names[:-1], features, labels, folds)
    gain, low = _gain(with_it, without, labels, seed)
    why = f"AUROC {gain:+.4f} beside the other signals by cross-validation ({low:+.4f} at least)"
    if low <= 0.0:
        return None, None, f"left out: {why}"
    return fit_probe(states, right), fit_scorer(names, wider, labels), f"used: {why}"


def crossed(names: Sequence[str], rows: Floats, labels: Floats, folds: Ints) -> Floats:
    """Return each row's score by a scorer that was fitted without the row's fold."""
    scores = np.zeros(len(rows))
    for fold in range(NUM_FOLDS):
        scorer = fit_scorer(names, rows[folds != fold], labels[folds != fold])
        scores[folds == fold] = scorer.many(rows[folds == fold])
    return scores


def _gain(ours: Floats, theirs: Floats, labels: Floats, seed: int) -> tuple[float, float]:
    """Return by how much AUROC rises, and what 9 in 10 resamples of the questions exceed."""
    generator, drawn = np.random.default_rng(seed), []
    for _ in range(200):
        places = generator.integers(0, len(labels), len(labels))
        above = deferral_curve.auroc(ours[places], labels[places])
        drawn.append(above - deferral_curve.auroc(theirs[places], labels[places]))
    whole = deferral_curve.auroc(ours, labels) - deferral_curve.auroc(theirs, labels)
    return whole, float(np.quantile(drawn, 0.1))


def fit_probe(
    answers: Sequence[npt.NDArray[np.float32]],
    right: Sequence[bool],
    options: ProbeOptions | None = None,
) -> Probe:
    """Train a probe; `answers` holds [tokens, hidden] for each answer."""
    options = options or ProbeOptions()
    everything = np.concatenate([each[-MAX_TOKENS:] for each in answers]).astype(np.float64)
    centre, scale = everything.mean(axis=0), np.maximum(everything.std(axis=0), 1e-6)
    trainer = Trainer(len(centre), centre, scale, options)
    generator, labels = np.random.default_rng(options.seed), np.array(right, dtype=np.float64)
    for epoch in range(options.epochs):
        rate = options.rate * (1.0 - epoch / options.epochs)
        order = generator.permutation(len(answers))
        for start in range(0, len(order), options.batch_size):
            chosen = order[start : start + options.batch_size]
            rows, mask = _padded([answers[place] for place in chosen], centre, scale)
            trainer.step(rows, mask, labels[chosen], rate)
    return trainer.probe


def _padded(
    answers: Sequence[npt.NDArray[np.float32]], centre: Floats, scale: Floats
) -> tuple[Floats, Floats]:
    """Return standardised states [answers, tokens, hidden] and which of them are there."""
    longest = max(min(len(each), MAX_TOKENS) for each in answers)
    rows = np.zeros((len(answers), longest, len(centre)))
    mask = np.zeros((len(answers), longest))
    for place, each in enumerate(answers):
        kept = each[-MAX_TOKENS:]
        rows[place, : len(kept)] = (kept - centre) / scale
        mask[place, : len(kept)] = 1.0
    return rows, mask


class Trainer:
    """Trainer of a probe: Adam on the cross-entropy, with weight decay."""

    def __init__(self, hidden: int, centre: Floats, scale: Floats, options: ProbeOptions) -> None:
        generator, width = np.random.default_rng(options.seed), options.width
        self.weights: dict[str, Floats] = {
            "query": np.zeros(hidden),
            "inner": generator.normal(0.0, (2 * hidden) ** -0.5, (2 * hidden, width)),
            "inner_bias": np.zeros(width),
            "outer": np.zeros(width),
            "bias": np.zeros(1),
        }
        self._centre, self._scale, self._decay = centre, scale, options.decay
        self._first = {name: np.zeros_like(each) for name, each in self.weights.items()}
        self._second = {name: np.zeros_like(each) for name, each in self.weights.items()}
        self._steps = 0

    @property
    def probe(self) -> Probe:
        named = {name: each for name, each in self.weights.items() if name != "bias"}
        bias = float(self.weights["bias"][0])
        return Probe(centre=self._centre, scale=self._scale, bias=bias, **named)

    def step(self, rows: Floats, mask: Floats, labels: Floats, rate: float) -> None:
        self._steps += 1
        for name, slope in self.slopes(rows, mask, labels).items():
            first = self._first[name] = 0.9 * self._first[name] + 0.1 * slope
            second = self._second[name] = 0.99 * self._second[name] + 0.01 * slope**2
            change = (first / (1 - 0.9**self._steps)) / (
                np.sqrt(second / (1 - 0.99**self._steps)) + 1e-8
            )
            weights = self.weights[name]
            self.weights[name] = weights - rate * (change + self._decay * weights)

    def slopes(self, rows: Floats, mask: Floats, labels: Floats) -> dict[str, Floats]:
        """Return the gradients, worked out by hand: five products."""
        scores, attention, pooled, hidden = self.probe.forward(rows, mask)
        error = (sigmoid(scores) - labels) / len(labels)
        inside = error[:, None] * self.weights["outer"] * (1.0 - hidden**2)
        along = (inside @ self.weights["inner"].T)[:, : rows.shape[2]]  # to the pooled state
        pull = np.einsum("ath,ah->at", rows, along)
        pull = attention * (pull - (attention * pull).sum(axis=1, keepdims=True))
        return {
            "query": np.einsum("at,ath->h", pull, rows),
            "inner": pooled.T @ inside,
            "inner_bias": inside.sum(axis=0),
            "outer": hidden.T @ error,
            "bias": np.array([error.sum()]),
        }
