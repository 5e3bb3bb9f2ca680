"""Whether a probe of the hidden states adds to the other signals, by cross-validation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from offload.policy.fitting import deferral_curve
from offload.policy.fitting.labelled_questions import Labelled
from offload.policy.serving.features import Floats, Ints
from offload.policy.serving.probe import Probe, fit_probe
from offload.policy.serving.scorer import Scorer, fit_scorer
from offload.policy.serving.signals import NAMES

NUM_FOLDS = 5


def try_probe(
    rows: Sequence[Labelled], folds: Ints, features: Floats, *, seed: int
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
    with_it = _crossed(names, wider, labels, folds)
    without = _crossed(names[:-1], features, labels, folds)
    gain, low = _gain(with_it, without, labels, seed)
    why = f"AUROC {gain:+.4f} beside the other signals by cross-validation ({low:+.4f} at least)"
    if low <= 0.0:
        return None, None, f"left out: {why}"
    return fit_probe(states, right), fit_scorer(names, wider, labels), f"used: {why}"


def _crossed(names: Sequence[str], rows: Floats, labels: Floats, folds: Ints) -> Floats:
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
