"""What another policy would have been worth, from decisions that were partly drawn by lot.

Inverse propensity scores weigh each decision that both policies share by one over how likely it
was; the doubly robust estimate corrects a guess of every reward by them (Dudik, Langford and Li,
arXiv 1103.4601). Both are true on average where every choice had a chance, whatever the guess is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from offload.errors import RequestError

MIN_DRAWN = 20


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A decision whose side had a chance of less than 1, and what it brought.

    `reward` is 0 to 1, of the answer that was given; `p_near` and `p_far` are the guesses of it
    that were noted; `wants_far` is what the policy to be valued would choose.
    """

    asked_far: bool
    propensity: float
    reward: float
    p_near: float
    p_far: float
    wants_far: bool


class PolicyValue(msgspec.Struct, frozen=True, kw_only=True):
    """The value of a policy: mean reward, and its standard error, by each estimator.

    `effective_rows` is how many rows of equal weight would say as much.
    """

    num_rows: int
    num_shared: int  # decisions that both policies made
    effective_rows: float
    far_then: float
    far_now: float
    logged: float  # what was earned then
    ips: float
    ips_error: float
    self_normalised: float
    doubly_robust: float
    doubly_robust_error: float


def worth(rows: Sequence[Drawn]) -> PolicyValue:
    """Return what the policy to be valued would earn. Raises RequestError for too few rows."""
    if len(rows) < MIN_DRAWN:
        raise RequestError(
            f"{len(rows)} decisions that were drawn by lot have a reward; {MIN_DRAWN} are the "
            "least to learn from: set policy.exploration, and give rewards of more requests"
        )
    asked, wants, rewards = (_column(rows, name) for name in ("asked_far", "wants_far", "reward"))
    near, far = _column(rows, "p_near"), _column(rows, "p_far")
    weights = np.where(asked == wants, 1.0 / _column(rows, "propensity"), 0.0)
    guessed, given = np.where(wants > 0, far, near), np.where(asked > 0, far, near)
    robust, total = guessed + weights * (rewards - given), float(weights.sum())
    return PolicyValue(
        num_rows=len(rows),
        num_shared=int((asked == wants).sum()),
        effective_rows=total**2 / max(1e-12, float(weights @ weights)),
        far_then=float(asked.mean()),
        far_now=float(wants.mean()),
        logged=float(rewards.mean()),
        ips=float((weights * rewards).mean()),
        ips_error=_error(weights * rewards),
        self_normalised=float(weights @ rewards) / total if total else 0.0,
        doubly_robust=float(robust.mean()),
        doubly_robust_error=_error(robust),
    )


def _column(rows: Sequence[Drawn], name: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.array([getattr(row, name) for row in rows], dtype=np.float64)


def _error(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values)))
