"""The ledger's drawn decisions joined with what their answers were worth, to value a policy by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from backbone.error_causes import cause
from offload.egress.ledger.entries import Decided
from offload.errors import RequestError
from offload.policy.fitting.ledger_replay import estimate_of
from offload.policy.fitting.off_policy import Drawn, PolicyValue
from offload.policy.serving.rule import Limit


class Reward(msgspec.Struct, frozen=True, kw_only=True):
    """What the answer to one request was worth, 0 (wrong) to 1 (right)."""

    request_id: str
    reward: float


def read_rewards(path: Path) -> dict[str, float]:
    """Read JSON lines of request_id and reward; of two for one request the later holds.

    Raises RequestError that names the line.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise RequestError(
            f"{path} cannot be read ({cause(error)}); name a file of rewards (JSON lines)"
        ) from None
    return dict(_row(path, number, line) for number, line in enumerate(lines, 1) if line.strip())


def drawn(decisions: Sequence[Decided], rewards: Mapping[str, float], limit: Limit) -> list[Drawn]:
    """Return the decisions with a reward whose side was left to chance, under another limit."""
    rows = []
    for each in decisions:
        estimate, asked = estimate_of(each), each.inputs.get("asked_far")
        reward = rewards.get(each.request_id)
        if reward is None or estimate is None or estimate.right is None:
            continue
        if not isinstance(asked, bool):
            continue
        if not 0.0 < each.propensity < 1.0:
            continue
        rows.append(
            Drawn(
                asked_far=asked,
                propensity=each.propensity,
                reward=reward,
                p_near=estimate.right,
                p_far=1.0 if estimate.far is None else estimate.far,
                wants_far=limit.passed_by(estimate),
            )
        )
    return rows


def told(found: PolicyValue, aim: str) -> list[str]:
    """Say in sentences what a policy would have been worth."""
    return [
        f"{found.num_rows} decisions were drawn by lot and have a reward; "
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
