"""Replay of the ledger's decisions under another limit.

No model runs and nothing is sent. Only decisions that were open to the policy are replayed; what
the gate settled (offline, local_only, a spent budget) would be settled in the same way again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from offload.aims import Aim
from offload.egress.ledger.entries import DecisionEntry
from offload.policy.serving.calibrated import load_calibrated
from offload.policy.serving.first_day import first_day
from offload.policy.serving.rule import Estimate, Limit, Rule, ThresholdRule

_NEAR = ("confident", "neither")
_FAR = ("unsure", "too_hard", "cloud_failed")


class LedgerReplay(msgspec.Struct, frozen=True, kw_only=True):
    """Result of a replay: what was asked far then, and what would be under the other limit.

    `right` is the expected share of right answers by the policy's own probabilities, None where a
    decision was made without them; it is no measurement.
    """

    num_decisions: int  # in the ledger
    num_replayed: int
    far_then: int
    far_now: int
    right_then: float | None
    right_now: float | None
    to_far: list[str]  # ids of requests that would go far now and did not
    to_near: list[str]


def limit_of(aim: Aim, *, policy: Path | None, min_logprob: float | None) -> Limit:
    """Return the limit to replay under: an aim of a policy file, or of the rule of the first day.

    Raises SettingsError for a policy that cannot be read, RequestError for an aim it cannot keep.
    """
    rule: Rule
    if min_logprob is not None:
        rule = ThresholdRule(min_logprob=min_logprob)
    else:
        rule = first_day() if policy is None else load_calibrated(policy)
    return rule.limit(aim)


def replay(
    decisions: Sequence[DecisionEntry], limit: Limit, *, by_logprob: bool = False
) -> LedgerReplay:
    """Return what the limit would have made of decisions, the newest first.

    With `by_logprob` a decision is judged by its least token log-probability alone, as a limit
    set by hand does; else by the probabilities that were noted.
    """
    open_then = [each for each in decisions if _reason(each) in (*_NEAR, *_FAR)]
    rows = [(each, estimate_of(each, by_logprob=by_logprob)) for each in open_then]
    seen = [(each, estimate) for each, estimate in rows if estimate is not None]
    then = [_reason(each) in _FAR for each, _ in seen]
    now = [limit.passed_by(estimate) for _, estimate in seen]
    ids = [each.request_id for each, _ in seen]
    estimates = [estimate for _, estimate in seen]
    return LedgerReplay(
        num_decisions=len(decisions),
        num_replayed=len(seen),
        far_then=sum(then),
        far_now=sum(now),
        right_then=_right(estimates, then),
        right_now=_right(estimates, now),
        to_far=[name for name, was, is_ in zip(ids, then, now, strict=True) if is_ and not was],
        to_near=[name for name, was, is_ in zip(ids, then, now, strict=True) if was and not is_],
    )


def report_lines(found: LedgerReplay) -> list[str]:
    """Return a replay in sentences, for a person."""
    if not found.num_replayed:
        return [f"Of {found.num_decisions} decisions none was open to the policy."]
    lines = [
        f"{found.num_replayed} of {found.num_decisions} decisions were open to the policy.",
        f"Asked far then: {found.far_then}; under this limit: {found.far_now} "
        f"({len(found.to_far)} more, {len(found.to_near)} fewer).",
    ]
    if found.right_then is not None and found.right_now is not None:
        lines.append(
            f"Expected right, by the probabilities noted then: {found.right_then:.1%}; "
            f"under this limit: {found.right_now:.1%}."
        )
    return lines


def _reason(decided: DecisionEntry) -> str:
    route = decided.finish.route
    return route.reason if route is not None else ""


def estimate_of(decided: DecisionEntry, *, by_logprob: bool = False) -> Estimate | None:
    """Return what was known; None where neither the near model nor the prompt said anything."""
    inputs = decided.inputs
    least, near = _number(inputs, "least_logprob"), _number(inputs, "p_near")
    if by_logprob:
        return None if least is None else Estimate(score=least, right=near or 0.0)
    if near is None:
        return None
    score = _number(inputs, "score")
    far = _number(inputs, "p_far")
    # Without a score the prompt alone had decided, before a token was written.
    return Estimate(score=-1e300 if score is None else score, right=near, far=far)


def _number(inputs: dict[str, float | str | bool | None], name: str) -> float | None:
    value = inputs.get(name)
    return float(value) if isinstance(value, (int, float)) else None


def _right(estimates: Sequence[Estimate], far: Sequence[bool]) -> float | None:
    total = 0.0
    for estimate, went in zip(estimates, far, strict=True):
        if estimate.far is None or estimate.right is None:
            return None
        total += estimate.far if went else estimate.right
    return total / len(estimates) if estimates else None
