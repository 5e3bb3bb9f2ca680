"""Probe of the near model's hidden states: log odds that its answer is right.

An attention pool with one learned query over the states of the answer's tokens, then one hidden
layer: a few tens of thousands of weights. Plain numpy; calibration trains it
(offload/policy/fitting/probe_fit.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from backbone.errors import cause
from backbone.files import SHARED, replacement
from offload.errors import SettingsError
from offload.policy.serving.features import Floats
from offload.policy.serving.stored_arrays import read_arrays

VERSION = 1
MAX_TOKENS = 32  # of an answer, the newest
_ARRAYS = ("centre", "scale", "query", "inner", "inner_bias", "outer")


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Probe: centre, scale, query [hidden]; inner [2 hidden, width]; inner_bias, outer [width].

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
        return float(self.forward(standard[None], np.ones((1, len(rows))))[0][0])

    def forward(self, rows: Floats, mask: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        """Return scores [answers], attention, pooled states and the hidden layer."""
        # rows [answers, tokens, hidden], mask [answers, tokens]
        likes = rows @ self.query + np.where(mask > 0, 0.0, -1e30)
        attention = np.exp(likes - likes.max(axis=1, keepdims=True))
        attention /= attention.sum(axis=1, keepdims=True)
        last = rows[np.arange(len(rows)), mask.sum(axis=1).astype(int) - 1]
        pooled = np.concatenate([(attention[:, :, None] * rows).sum(axis=1), last], axis=1)
        hidden = np.tanh(pooled @ self.inner + self.inner_bias)
        return hidden @ self.outer + self.bias, attention, pooled, hidden


def save_probe(probe: Probe, path: Path) -> None:
    """Write a probe to `path`. Raises SettingsError where it cannot."""
    arrays: dict[str, Any] = {each.name: getattr(probe, each.name) for each in fields(probe)}
    stored = {name: np.asarray(each, dtype=np.float32) for name, each in arrays.items()}
    try:
        with replacement(path, mode=SHARED) as beside, beside.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, version=np.array(VERSION), **stored)
    except OSError as error:
        raise SettingsError(f"{path} cannot be written ({error.strerror}); free it") from None


def load_probe(path: Path) -> Probe:
    """Read a probe that `save_probe` wrote. Raises SettingsError where it is not one."""
    try:
        stored = read_arrays(path)
        if (version := int(stored["version"].item())) != VERSION:
            raise ValueError(f"version {version}, this nearfar reads {VERSION}")
        found = {name: stored[name].astype(np.float64) for name in _ARRAYS}
        bias = float(stored["bias"].item())
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SettingsError(
            f"the probe {path} cannot be read ({cause(error)}); calibrate again"
        ) from None
    hidden, width = found["centre"].size, found["outer"].size
    if found["query"].shape != (hidden,) or found["inner"].shape != (2 * hidden, width):
        raise SettingsError(f"the probe {path} does not fit together; calibrate again")
    return Probe(bias=bias, **found)
