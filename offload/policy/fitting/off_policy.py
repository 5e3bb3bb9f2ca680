"""Off-policy estimate: what another policy would have earned, from decisions drawn at random.

Inverse propensity scores weigh each decision that both policies share by one over how likely it
was; the doubly robust estimate corrects a guess of every reward by them (Dudik, Langford and Li,
arXiv 1103.4601). Both are true on average where every choice had a chance, whatever the guess is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from backbone.errors import cause
from backbone.file_reading import MAX_TABLE_BYTES, read_bytes
from offload.egress.ledger.entries import DecisionEntry
from offload.errors import RequestError
from offload.policy.fitting.ledger_replay import estimate_of
from offload.policy.serving.features import Floats
from offload.policy.serving.rule import Limit

MIN_DRAWN = 20


@dataclass(frozen=True, kw_only=True)
class DrawnDecision:
    """One decision whose side was drawn at random, and the reward of its answer.

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
    """Value of a policy: mean reward, and its standard error, by each estimator.

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


def value_of(rows: Sequence[DrawnDecision]) -> PolicyValue:
    """Return what the policy to be valued would earn. Raises RequestError for too few rows."""
    if len(rows) < MIN_DRAWN:
        raise RequestError(
            f"{len(rows)} decisions that were drawn at random have a reward; {MIN_DRAWN} are the "
            "least to learn from: set policy.exploration, and give rewards of more requests"
        )
    went_far, wants, rewards = (
        _column(rows, name) for name in ("asked_far", "wants_far", "reward")
    )
    near, far = _column(rows, "p_near"), _column(rows, "p_far")
    weights = np.where(went_far == wants, 1.0 / _column(rows, "propensity"), 0.0)
    guessed, given = np.where(wants > 0, far, near), np.where(went_far > 0, far, near)
    robust, total = guessed + weights * (rewards - given), float(weights.sum())
    return PolicyValue(
        num_rows=len(rows),
        num_shared=int((went_far == wants).sum()),
        effective_rows=total**2 / max(1e-12, float(weights @ weights)),
        far_then=float(went_far.mean()),
        far_now=float(wants.mean()),
        logged=float(rewards.mean()),
        ips=float((weights * rewards).mean()),
        ips_error=_error(weights * rewards),
        self_normalised=float(weights @ rewards) / total if total else 0.0,
        doubly_robust=float(robust.mean()),
        doubly_robust_error=_error(robust),
    )


def _column(
    rows: Sequence[DrawnDecision], name: str
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.array([getattr(row, name) for row in rows], dtype=np.float64)


def _error(values: Floats) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values)))


class Reward(msgspec.Struct, frozen=True, kw_only=True):
    """Reward of the answer to one request, 0 (wrong) to 1 (right)."""

    request_id: str
    reward: float


def read_rewards(path: Path) -> dict[str, float]:
    """Read JSON lines of request_id and reward; of two for one request the later holds.

    Raises RequestError that names the line.
    """
    try:
        lines = read_bytes(path, MAX_TABLE_BYTES).splitlines()
    except OSError as error:
        raise RequestError(
            f"{path} cannot be read ({cause(error)}); name a file of rewards (JSON lines)"
        ) from None
    return dict(_row(path, number, line) for number, line in enumerate(lines, 1) if line.strip())


def drawn_decisions(
    decisions: Sequence[DecisionEntry], rewards: Mapping[str, float], limit: Limit
) -> list[DrawnDecision]:
    """Return the decisions with a reward whose side was left to chance, under another limit."""
    rows = []
    for each in decisions:
        estimate, went_far = estimate_of(each), each.inputs.get("asked_far")
        reward = rewards.get(each.request_id)
        if reward is None or estimate is None or estimate.right is None:
            continue
        if not isinstance(went_far, bool):
            continue
        if not 0.0 < each.propensity < 1.0:
            continue
        rows.append(
            DrawnDecision(
                asked_far=went_far,
                propensity=each.propensity,
                reward=reward,
                p_near=estimate.right,
                p_far=1.0 if estimate.far is None else estimate.far,
                wants_far=limit.passed_by(estimate),
            )
        )
    return rows


def report_lines(found: PolicyValue, aim: str) -> list[str]:
    """Return the estimates in sentences, for a person."""
    return [
        f"{found.num_rows} decisions were drawn at random and have a reward; "
        f"{found.num_shared} of them {aim} would have made too.",
        f"Asked far then: {found.far_then:.1%}; under {aim}: {found.far_now:.1%}.",
        f"Reward then: {found.logged:.3f}.",
        f"Reward of {aim}: {found.ips:.3f} +- {found.ips_error:.3f} by inverse propensities, "
        f"{found.self_normalised:.3f} self-normalised, {found.doubly_robust:.3f} +- "
        f"{found.doubly_robust_error:.3f} doubly robust (one standard error).",
    ]


def _row(path: Path, number: int, line: bytes) -> tuple[str, float]:
    try:
        row = msgspec.json.decode(line, type=Reward)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise RequestError(
            f"{path}, line {number} is no reward ({cause(error)}); "
            "a row needs request_id and reward"
        ) from None
    if not 0.0 <= row.reward <= 1.0:
        raise RequestError(f"{path}, line {number}: reward is {row.reward}; it lies from 0 to 1")
    return row.request_id, row.reward
