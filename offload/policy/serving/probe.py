"""Whether an answer is right, read from the near model's own hidden states.

An attention pool with one learned query over the states of the answer's tokens, then one hidden
layer: a few tens of thousands of weights. Plain numpy; trained by calibration with Adam
(Kingma and Ba, arXiv 1412.6980).
"""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from backbone.error_causes import cause
from offload.errors import SettingsError
from offload.policy.serving.features import Floats
from offload.policy.serving.logistic import sigmoid

VERSION = 1
MAX_TOKENS = 32  # of an answer, the newest
_ARRAYS = ("centre", "scale", "query", "inner", "inner_bias", "outer")


@dataclass(frozen=True, kw_only=True)
class ProbeOptions:
    """How a probe is trained; checked by cross-validation, never on the questions it is held to."""

    width: int = 32
    epochs: int = 40
    batch_size: int = 32
    rate: float = 2e-3
    decay: float = 0.05
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Weights: centre, scale, query [hidden]; inner [2 hidden, width]; inner_bias, outer [width].

    The pooled state and the last one stand beside one another, hence two times hidden.
    """

    centre: Floats
    scale: Floats
    query: Floats
    inner: Floats
    inner_bias: Floats
    outer: Floats
    bias: float

    @property
    def num_weights(self) -> int:
        """Return how many numbers training found."""
        return sum(each.size for each in (self.query, self.inner, self.inner_bias, self.outer)) + 1

    def score(self, states: Sequence[Any]) -> float:
        """Return the log odds of being right; `states` is float [hidden] per token."""
        rows = np.asarray(states[-MAX_TOKENS:], dtype=np.float64)
        if rows.ndim != 2 or rows.shape[1] != len(self.centre):
            raise SettingsError(
                f"the probe reads states of {len(self.centre)} numbers, not {rows.shape[-1]}; "
                "calibrate again"
            )
        standard = (rows - self.centre) / self.scale
        return float(self._forward(standard[None], np.ones((1, len(rows))))[0][0])

    def _forward(self, rows: Floats, mask: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        """Return scores [answers], attention, pooled states and the hidden layer."""
        # rows [answers, tokens, hidden], mask [answers, tokens]
        likes = rows @ self.query + np.where(mask > 0, 0.0, -1e30)
        attention = np.exp(likes - likes.max(axis=1, keepdims=True))
        attention /= attention.sum(axis=1, keepdims=True)
        last = rows[np.arange(len(rows)), mask.sum(axis=1).astype(int) - 1]
        pooled = np.concatenate([(attention[:, :, None] * rows).sum(axis=1), last], axis=1)
        hidden = np.tanh(pooled @ self.inner + self.inner_bias)
        return hidden @ self.outer + self.bias, attention, pooled, hidden


def fit_probe(
    answers: Sequence[npt.NDArray[np.float32]],
    right: Sequence[bool],
    options: ProbeOptions | None = None,
) -> Probe:
    """Train a probe; `answers` holds [tokens, hidden] for each answer."""
    options = options or ProbeOptions()
    everything = np.concatenate([each[-MAX_TOKENS:] for each in answers]).astype(np.float64)
    centre, scale = everything.mean(axis=0), np.maximum(everything.std(axis=0), 1e-6)
    trainer = _Trainer(len(centre), centre, scale, options)
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


class _Trainer:
    """Adam on the cross-entropy, with weights that decay."""

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
        for name, slope in self._slopes(rows, mask, labels).items():
            first = self._first[name] = 0.9 * self._first[name] + 0.1 * slope
            second = self._second[name] = 0.99 * self._second[name] + 0.01 * slope**2
            change = (first / (1 - 0.9**self._steps)) / (
                np.sqrt(second / (1 - 0.99**self._steps)) + 1e-8
            )
            weights = self.weights[name]
            self.weights[name] = weights - rate * (change + self._decay * weights)

    def _slopes(self, rows: Floats, mask: Floats, labels: Floats) -> dict[str, Floats]:
        """Return the gradients, worked out by hand: five products."""
        scores, attention, pooled, hidden = self.probe._forward(rows, mask)
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


def save_probe(probe: Probe, path: Path) -> None:
    """Write a probe beside `path` and rename it there. Raises SettingsError where it cannot."""
    arrays: dict[str, Any] = {each.name: getattr(probe, each.name) for each in fields(probe)}
    stored = {name: np.asarray(each, dtype=np.float32) for name, each in arrays.items()}
    beside = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        with beside.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, version=np.array(VERSION), **stored)
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise SettingsError(f"{path} cannot be written ({error.strerror}); free it") from None


def load_probe(path: Path) -> Probe:
    """Read a probe that `save_probe` wrote. Raises SettingsError where it is not one."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            if int(archive["version"]) != VERSION:
                raise ValueError(f"version {int(archive['version'])}, this nearfar reads {VERSION}")
            found = {name: archive[name].astype(np.float64) for name in _ARRAYS}
            bias = float(archive["bias"])
    except (OSError, ValueError, KeyError, EOFError, TypeError) as error:
        raise SettingsError(
            f"the probe {path} cannot be read ({cause(error)}); calibrate again"
        ) from None
    except (zipfile.BadZipFile, zlib.error) as error:
        raise SettingsError(
            f"the probe {path} cannot be read ({cause(error)}); calibrate again"
        ) from None
    hidden, width = found["centre"].size, found["outer"].size
    if found["query"].shape != (hidden,) or found["inner"].shape != (2 * hidden, width):
        raise SettingsError(f"the probe {path} does not fit together; calibrate again")
    return Probe(bias=bias, **found)
