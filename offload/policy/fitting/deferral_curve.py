"""Deferral curve of a score: the quality reached by each share sent far, its figures, its plot.

The curve says what share of the quality between near and far is recovered when the share c of
all requests with the highest scores is sent far (RouteLLM, arXiv 2406.18665, section 4). Here
it is exact per request: requests of one score are sent in a random order, so that the expected
curve runs straight through a tie.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from backbone.errors import cause
from offload.errors import RequestError
from offload.policy.serving.features import Floats, Ints

LEVELS = {"cpt50": 0.5, "cpt80": 0.8, "cpt95": 0.95}
_LINES = {
    "oracle": ("knows both answers", "#9e9e9e", ":"),
    "self_knowledge": ("knows when the near model is right", "#2e7d32", "--"),
    "random": ("asks far at random", "#9e9e9e", "-"),
}


@dataclass(frozen=True)
class Outcomes:
    """Outcomes: whether the near and the far model were right, 0 or 1. [requests]"""

    weak: Floats
    strong: Floats

    def __post_init__(self) -> None:
        if len(self.weak) == 0 or len(self.weak) != len(self.strong):
            raise RequestError(
                f"{len(self.weak)} near and {len(self.strong)} far outcomes; give one of each "
                "per question, and at least one question"
            )
        if self.strong.sum() <= self.weak.sum():
            raise RequestError(
                f"the far model is right {self.strong.sum():.0f} times and the near one "
                f"{self.weak.sum():.0f} of {len(self.weak)}; there is nothing to gain by asking "
                "far, so give outcomes in which the far model is better"
            )


@dataclass(frozen=True)
class Curve:
    """Deferral curve, piecewise straight: share sent far -> share of the quality gap recovered."""

    share: Floats
    recovered: Floats

    @property
    def apgr(self) -> float:
        """Return the area under the curve: 0.5 is random, an oracle passes 1."""
        heights = (self.recovered[1:] + self.recovered[:-1]) / 2.0
        return float(heights @ np.diff(self.share))

    def cpt(self, level: float) -> float:
        """Return the least share to send far for a share `level` of the gap, both 0 to 1."""
        place = int(np.argmax(self.recovered >= level - 1e-12))
        if place == 0:
            return 0.0
        low, high = self.recovered[place - 1], self.recovered[place]
        part = min(1.0, (level - low) / (high - low))
        return float(self.share[place - 1] + part * (self.share[place] - self.share[place - 1]))


@dataclass(frozen=True)
class Ranked:
    """Ranking of requests, the first to be sent far first; `ends` closes each run of ties."""

    order: Ints
    ends: Ints

    @classmethod
    def by(cls, scores: Floats) -> Ranked:
        """Rank by score, highest first. Raises RequestError for scores that are not numbers."""
        if not np.all(np.isfinite(scores)):
            raise RequestError("a score is not a finite number; mend what gives the scores")
        order = np.argsort(-scores, kind="stable")
        ends = np.flatnonzero(np.diff(scores[order])) + 1
        return cls(order, np.append(ends, len(scores)))

    def curve(self, outcomes: Outcomes, weights: Floats | None = None) -> Curve:
        """Return the curve, each request counted `weights` times (a bootstrap's draw)."""
        weights = np.ones(len(self.order)) if weights is None else weights
        counted = weights[self.order]
        gained = counted * (outcomes.strong - outcomes.weak)[self.order]
        share = np.append(0.0, np.cumsum(counted)[self.ends - 1])
        recovered = np.append(0.0, np.cumsum(gained)[self.ends - 1])
        return Curve(share / share[-1], recovered / recovered[-1])


def deferral_curve(scores: Floats, outcomes: Outcomes) -> Curve:
    """Return the exact curve of sending the highest scores far first."""
    return Ranked.by(scores).curve(outcomes)


def ceilings(outcomes: Outcomes) -> dict[str, Curve]:
    """Return the lines to compare with.

    `oracle` knows both outcomes; `self_knowledge` knows only whether the near model is right;
    `random` knows nothing.
    """
    return {
        "oracle": deferral_curve(outcomes.strong - outcomes.weak, outcomes),
        "self_knowledge": deferral_curve(1.0 - outcomes.weak, outcomes),
        "random": deferral_curve(np.zeros(len(outcomes.weak)), outcomes),
    }


def auroc(scores: Floats, positives: Floats) -> float:
    """Return the chance that a positive scores above a negative, ties counted half.

    0.5 where one class is missing: nothing can be told apart then.
    """
    num_positive = float(positives.sum())
    num_negative = len(positives) - num_positive
    if num_positive == 0 or num_negative == 0:
        return 0.5
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2.0)[inverse]
    above = float(ranks[positives > 0].sum()) - num_positive * (num_positive + 1) / 2.0
    return above / (num_positive * num_negative)


def ece(probabilities: Floats, happened: Floats, *, num_bins: int = 15) -> float:
    """Return the expected calibration error over bins of equal numbers of requests."""
    order = np.argsort(probabilities, kind="stable")
    gaps = [
        abs(float(np.sum(probabilities[part] - happened[part])))
        for part in np.array_split(order, min(num_bins, len(order)))
    ]
    return sum(gaps) / len(order)


def figures(curve: Curve) -> dict[str, float]:
    """Return `apgr`, `cpt50`, `cpt80` and `cpt95` of one curve."""
    return {"apgr": curve.apgr} | {name: curve.cpt(level) for name, level in LEVELS.items()}


def intervals(
    scores: Floats, outcomes: Outcomes, *, resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> dict[str, tuple[float, float]]:
    """Return percentile bootstrap intervals of every figure, requests drawn with replacement.

    A draw in which the far model is no better says nothing of the figures and is left out.
    """
    generator, ranked, total = np.random.default_rng(seed), Ranked.by(scores), len(scores)
    gains, drawn = outcomes.strong - outcomes.weak, []
    for _ in range(resamples):
        weights = np.bincount(generator.integers(0, total, total), minlength=total).astype(float)
        if weights @ gains > 0:
            drawn.append(figures(ranked.curve(outcomes, weights)))
    ends = [(1.0 - level) / 2.0, (1.0 + level) / 2.0]
    bounds = {name: np.quantile([each[name] for each in drawn], ends) for name in drawn[0]}
    return {name: (float(low), float(high)) for name, (low, high) in bounds.items()}


def draw(curve: Curve, lines: Mapping[str, Curve], path: Path, *, title: str) -> None:
    """Draw what share of the gap between near and far is recovered by what share sent far.

    Raises RequestError where matplotlib is not installed or the file cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise RequestError(
            "matplotlib is not installed; "
            "pip install 'nearfar[plot]' brings it, or leave out --plot"
        ) from None
    figure = Figure(figsize=(7.0, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name, each in lines.items():
        words, colour, style = _LINES[name]
        label = f"{words} ({each.apgr:.3f})"
        axes.plot(each.share, each.recovered, style, color=colour, linewidth=1.2, label=label)
    label = f"this policy ({curve.apgr:.3f})"
    axes.plot(curve.share, curve.recovered, color="#1565c0", linewidth=2.0, label=label)
    axes.set(xlabel="share of the questions sent far", title=title, xlim=(0.0, 1.0))
    axes.set_ylabel("share of the gap in quality recovered")
    axes.legend(loc="lower right", title="area under the curve", frameon=False)
    axes.grid(alpha=0.25)
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise RequestError(
            f"{path} cannot be written ({cause(error)}); name a .png or .svg"
        ) from None
