"""The hard rules: what keeps a text near always wins, and each says why in words."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from offload.egress.ledger.entries import DaySpending, Departure
from offload.egress.ledger.ledger import Ledger
from offload.link.health import CloudSnapshot
from offload.messages import Privacy, Request, Sampling
from offload.policy.serving.gate import Conditions, ConditionsReader, DayLimits, gate
from offload.reasons import REASONS, sentence
from tests.offload.scripted import ScriptedEngine


def ask(**options: object) -> Request:
    return Request(prompt="0123456789", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("conditions", "choice", "reason"),
    [
        (Conditions(), "open", "confident"),
        (Conditions(reachable=False), "edge", "unreachable"),
        (Conditions(reachable=False, forced="cloud"), "cloud", "forced_cloud"),
        (Conditions(limits=DayLimits(cost=1.0), spent=DaySpending(cost=1.0)), "edge", "day_cost"),
        (Conditions(limits=DayLimits(cost=1.0), spent=DaySpending(cost=0.9)), "open", "confident"),
        (Conditions(limits=DayLimits(tokens=5), spent=DaySpending(tokens=5)), "edge", "day_tokens"),
        (Conditions(limits=DayLimits(num_bytes=10)), "open", "confident"),
        (
            Conditions(limits=DayLimits(num_bytes=10), spent=DaySpending(num_bytes=1)),
            "edge",
            "day_bytes",
        ),
        (Conditions(limits=DayLimits(num_bytes=9), forced="cloud"), "edge", "day_bytes"),
        (Conditions(hot=True, on_battery=True), "open", "confident"),
        (Conditions(spare=True), "open", "confident"),
        (Conditions(spare=True, hot=True), "cloud", "hot"),
        (Conditions(spare=True, on_battery=True), "cloud", "on_battery"),
        (Conditions(spare=True, short_of_memory=True, hot=True), "cloud", "short_of_memory"),
        (Conditions(spare=True, hot=True, reachable=False), "edge", "unreachable"),
    ],
)
def test_each_rule_has_its_choice_and_its_reason(
    conditions: Conditions, choice: str, reason: str
) -> None:
    verdict = gate(ask(), conditions)
    assert (verdict.choice, verdict.reason) == (choice, reason)
    assert reason in REASONS


@pytest.mark.parametrize("spare", [False, True])
@pytest.mark.parametrize("forced", [None, "cloud"])
def test_local_only_wins_over_every_pressure_and_wish(spare: bool, forced: str | None) -> None:
    conditions = Conditions(spare=spare, hot=True, forced=forced)  # type: ignore[arg-type]
    assert gate(ask(privacy=Privacy.LOCAL_ONLY), conditions).choice == "edge"


def test_a_device_under_pressure_sends_nothing_that_must_be_asked_for() -> None:
    verdict = gate(ask(privacy=Privacy.ASK), Conditions(spare=True, hot=True))
    assert verdict.choice == "open" and verdict.must_ask


@dataclass
class Pressure:
    on_battery: bool = False
    hot: bool = True
    short_of_memory: bool = False


class Cloud(ScriptedEngine):
    healthy = True

    def snapshot(self) -> CloudSnapshot:
        return CloudSnapshot(healthy=self.healthy)


def test_conditions_tell_the_link_the_spending_and_the_pressure(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite", clock=lambda: 1000.0)
    departure = Departure(
        request_id="r",
        left_at=1000.0,
        endpoint="e",
        why="unsure",
        privacy="cloud_ok",
        num_bytes=42,
        digest="",
    )
    ledger.leaving(departure)
    cloud = Cloud()
    reader = ConditionsReader(
        cloud, ledger=ledger, limits=lambda: DayLimits(num_bytes=50), pressure=Pressure
    )
    conditions = reader()
    assert conditions.reachable and conditions.spent.num_bytes == 42 and conditions.spare
    assert gate(ask(), conditions).reason == "day_bytes"
    cloud.healthy = False
    assert not reader().reachable
    ledger.close()


def test_the_pressure_is_read_only_every_few_seconds_and_only_where_wanted() -> None:
    now, reads = [0.0], []

    def read() -> Pressure:
        reads.append(now[0])
        return Pressure()

    reader = ConditionsReader(None, pressure=read, clock=lambda: now[0])
    for second in (0.0, 1.0, 4.9, 5.0, 6.0):
        now[0] = second
        assert reader().hot
    assert reads == [0.0, 5.0]
    assert not ConditionsReader(None)().spare


def test_token_ids_stay_near_whatever_is_wished() -> None:
    ids = Request(prompt_token_ids=(1, 2))
    for conditions in (Conditions(), Conditions(forced="cloud"), Conditions(spare=True, hot=True)):
        verdict = gate(ids, conditions)
        assert (verdict.choice, verdict.reason) == ("edge", "token_ids")
    assert "token_ids" in REASONS


def test_what_names_the_near_models_tokens_stays_near_unless_the_cloud_is_meant() -> None:
    for more in ({"logit_bias": {5: 1.0}}, {"stop_token_ids": (5,)}):
        request = Request(prompt="a", sampling=Sampling(**more))
        assert gate(request, Conditions()).reason == "token_ids"
        assert gate(request, Conditions(forced="cloud")).choice == "cloud"


def test_filling_in_is_done_near_whatever_is_wished() -> None:
    request = Request(prompt="a", suffix="b")
    for forced in (None, "cloud"):
        verdict = gate(request, Conditions(forced=forced))
        assert (verdict.choice, verdict.reason) == ("edge", "fill_in")


def test_local_only_wins_over_every_standing() -> None:
    request = Request(prompt="x", privacy=Privacy.LOCAL_ONLY)
    for forced in (None, "edge", "cloud"):
        for has_cloud in (True, False):
            conditions = Conditions(forced=forced, has_cloud=has_cloud)
            assert gate(request, conditions).choice == "edge"


def test_every_verdict_has_a_sentence() -> None:
    standings = [
        Conditions(offline=offline, has_cloud=has_cloud, forced=forced)
        for offline in (True, False)
        for has_cloud in (True, False)
        for forced in (None, "edge", "cloud")
    ]
    for conditions in standings:
        for privacy in Privacy:
            verdict = gate(Request(prompt="x", privacy=privacy), conditions)
            assert verdict.reason in REASONS
            assert sentence(verdict.reason) != verdict.reason
