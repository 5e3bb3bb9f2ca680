"""Decisions replayed under another limit: only what was open changes, by the figures seen then."""

from __future__ import annotations

from pathlib import Path

import pytest

from offload.aims import parse_aim
from offload.egress.ledger.entries import DecisionEntry
from offload.errors import RequestError, SettingsError
from offload.messages import Finish, Route
from offload.pair import EDGE_POLICY
from offload.policy.fitting.ledger_replay import limit_of, replay, report_lines
from offload.policy.serving.rule import Limit


def decided(name: str, reason: str, near: float | None, far: float | None = 0.95) -> DecisionEntry:
    least = None if near is None else near - 1.0
    return DecisionEntry(
        number=1,
        request_id=name,
        began_at=0.0,
        privacy="cloud_ok",
        inputs={"p_near": near, "p_far": far, "score": near, "least_logprob": least},
        propensity=1.0,
        finish=Finish(reason="stop", route=Route(served_by="edge", reason=reason)),
    )


KEPT = [decided("sure", "confident", 0.9), decided("doubt", "unsure", 0.4)]


def test_the_same_limit_changes_nothing() -> None:
    found = replay(KEPT, Limit(max_need=0.3))
    assert (found.far_then, found.far_now, found.to_far, found.to_near) == (1, 1, [], [])
    assert found.right_then == found.right_now == pytest.approx((0.9 + 0.95) / 2)


def test_a_stricter_limit_sends_more_and_a_laxer_one_less() -> None:
    assert replay(KEPT, Limit(max_need=0.01)).to_far == ["sure"]
    laxer = replay(KEPT, Limit(max_need=0.6))
    assert laxer.to_near == ["doubt"] and laxer.right_now == pytest.approx((0.9 + 0.4) / 2)


@pytest.mark.parametrize("reason", ["offline", "local_only", "no_cloud", "day_bytes"])
def test_what_the_gate_settled_is_not_replayed(reason: str) -> None:
    found = replay([*KEPT, decided("gate", reason, 0.1)], Limit(max_need=-1.0))
    assert (found.num_decisions, found.num_replayed, found.far_now) == (3, 2, 2)


def test_the_rule_without_labels_reads_the_least_token() -> None:
    limit = limit_of(parse_aim("auto"), policy=None, min_logprob=-0.05)
    assert replay(KEPT, limit, by_logprob=True).far_now == 2  # -0.1 and -0.6
    limit = limit_of(parse_aim("auto"), policy=None, min_logprob=-0.5)
    assert replay(KEPT, limit, by_logprob=True).far_now == 1


def test_probabilities_that_were_not_noted_promise_nothing() -> None:
    found = replay([decided("a", "confident", 0.9, far=None)], Limit(min_score=0.95))
    assert found.right_then is None and found.far_now == 1
    assert len(report_lines(found)) == 2


def test_an_empty_ledger_is_told() -> None:
    assert report_lines(replay([], Limit())) == ["Of 0 decisions none was open to the policy."]


def test_a_calibrated_aim_gives_its_own_limit() -> None:
    lax = limit_of(parse_aim("auto-q90"), policy=EDGE_POLICY, min_logprob=None)
    strict = limit_of(parse_aim("auto-q99"), policy=EDGE_POLICY, min_logprob=None)
    assert strict.max_need < lax.max_need


def test_a_damaged_policy_and_an_unknown_aim_are_told(tmp_path: Path) -> None:
    damaged = tmp_path / "p.json"
    damaged.write_text("{")
    with pytest.raises(SettingsError, match=r"p\.json"):
        limit_of(parse_aim("auto"), policy=damaged, min_logprob=None)
    with pytest.raises(RequestError, match="auto-q95"):
        parse_aim("best")
