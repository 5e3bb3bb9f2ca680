"""Divergence between two models' predictions: perplexity, KL, agreement, all text or answers only.

A chat model never learnt to guess the questions, so its perplexity on them is noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from backbone.errors import NearfarError


def control_ids(folder: Path, names: tuple[str, str]) -> tuple[int, int]:
    """Return the ids of the tokens that open and close an answer. Raises NearfarError."""
    from quantize.calibration import encode

    start = encode(folder, "", parse_special=True)
    found = [encode(folder, name, parse_special=True)[len(start) :] for name in names]
    for name, ids in zip(names, found, strict=True):
        if len(ids) != 1:
            raise NearfarError(
                f"{name!r} is no single token of {folder.name}; name a control token of its "
                "tokenizer, for example '<|assistant|>'"
            )
    return found[0][0], found[1][0]


def inside_answers(tokens: Sequence[int], between: tuple[int, int]) -> NDArray[np.bool_]:
    """Return which tokens follow an opening one, up to and with the closing one.

    What stands before the first of either is unknown, and counts as outside.
    """
    opening, closing = between
    said = np.zeros(len(tokens), dtype=np.bool_)
    speaking = False
    for place, token in enumerate(tokens):
        said[place] = speaking
        speaking = token == opening or (speaking and token != closing)
    return said


Logits = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """Over all scored positions; KL divergence in nats, of the candidate from the reference."""

    perplexity: float
    reference_perplexity: float
    mean_kld: float
    mean_kld_error: float  # standard error of the mean, positions taken as independent
    kld_999: float  # 99.9% of the positions lie below
    top1_agreement: float
    num_positions: int
    mean_change_error: float = 0.0  # standard error of the mean change of log-likelihood

    @property
    def perplexity_change(self) -> float:
        """Return the relative change of perplexity, 0.01 for one per cent worse."""
        return self.perplexity / self.reference_perplexity - 1.0

    @property
    def perplexity_change_error(self) -> float:
        """Return its standard error; each position is paired with the reference's."""
        return self.mean_change_error * self.perplexity / self.reference_perplexity


class DivergenceSum:
    """Divergence sum over windows; holds one number per position, never the logits."""

    def __init__(self) -> None:
        self._nll: list[NDArray[np.float64]] = []
        self._reference_nll: list[NDArray[np.float64]] = []
        self._kld: list[NDArray[np.float64]] = []
        self._agree: list[NDArray[np.bool_]] = []

    def add(self, reference: Logits, candidate: Logits, targets: NDArray[np.int64]) -> None:
        """Take logits [positions, vocab] of both and the tokens that really came, [positions]."""
        p, q = log_softmax(reference), log_softmax(candidate)
        rows = np.arange(len(targets))
        self._nll.append(-q[rows, targets])
        self._reference_nll.append(-p[rows, targets])
        self._kld.append((np.exp(p) * (p - q)).sum(1))
        self._agree.append(reference.argmax(1) == candidate.argmax(1))

    def result(self) -> Divergence:
        """Return the figures over everything added."""
        kld = np.concatenate(self._kld)
        change = np.concatenate(self._nll) - np.concatenate(self._reference_nll)
        return Divergence(
            perplexity=float(np.exp(np.concatenate(self._nll).mean())),
            reference_perplexity=float(np.exp(np.concatenate(self._reference_nll).mean())),
            mean_kld=float(kld.mean()),
            mean_kld_error=float(kld.std() / np.sqrt(len(kld))),
            kld_999=float(np.quantile(kld, 0.999)),
            top1_agreement=float(np.concatenate(self._agree).mean()),
            num_positions=len(kld),
            mean_change_error=float(change.std() / np.sqrt(len(change))),
        )


def log_softmax(logits: Logits) -> NDArray[np.float64]:
    """Return log-probabilities in float64: differences of 1e-6 nats are what is measured."""
    wide = logits.astype(np.float64)
    wide -= wide.max(-1, keepdims=True)
    wide -= np.log(np.exp(wide).sum(-1, keepdims=True))
    return wide
