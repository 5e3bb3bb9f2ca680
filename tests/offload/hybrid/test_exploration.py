"""What is drawn at random keeps to the rules, is logged with its chance, and recovers the truth."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from offload.aims import parse_aim
from offload.config.settings import PolicySettings
from offload.egress.ledger.ledger import Ledger
from offload.egress.ledger.reading import open_book
from offload.errors import RequestError, SettingsError
from offload.hybrid.hybrid import Hybrid, HybridOptions
from offload.messages import Budget, Message, Privacy, Request
from offload.policy.fitting.off_policy import (
    DrawnDecision,
    drawn_decisions,
    read_rewards,
    report_lines,
    value_of,
)
from offload.policy.serving.gate import Conditions, DayLimits
from offload.policy.serving.rule import Limit
from tests.offload.hybrid.pairs import SURE, UNSURE, Kept, Told, ask, near, read
from tests.offload.scripted import ScriptedEngine


def always() -> float:
    return 0.0


def exploring(
    edge: ScriptedEngine,
    cloud: ScriptedEngine,
    chance: Callable[[], float] = always,
    *,
    conditions: Callable[[], Conditions] = Conditions,
    **options: Any,
) -> tuple[Hybrid, Kept]:
    kept = Kept([])
    chosen = HybridOptions(exploration=0.25, **options)
    hybrid = Hybrid(
        edge, cloud, options=chosen, recorder=kept, chance=chance, conditions=conditions
    )
    return hybrid, kept


async def test_a_sure_answer_is_sometimes_asked_far_all_the_same() -> None:
    hybrid, kept = exploring(near(("near", SURE)), near(("far", SURE)))
    text, finish = await read(hybrid, ask())
    assert text == "far" and finish.route.reason == "explored"
    assert kept.decisions[0].propensity == 0.25 and kept.decisions[0].inputs["asked_far"] is True


async def test_an_unsure_answer_is_sometimes_kept_and_heard_to_its_end() -> None:
    cloud = near(("far", SURE))
    hybrid, kept = exploring(near(("ne", UNSURE), ("ar", SURE)), cloud)
    text, finish = await read(hybrid, ask())
    assert text == "near" and finish.route.reason == "explored" and cloud.requests == []
    assert kept.decisions[0].propensity == 0.25 and kept.decisions[0].inputs["asked_far"] is False


async def test_what_looks_too_hard_is_sometimes_tried_near() -> None:
    rule = Told(near=0.1, far=0.9, far_at_once_gain=0.7)
    hybrid, kept = exploring(near(("near", SURE)), near(("far", SURE)), rule=rule)
    text, finish = await read(hybrid, ask())
    assert text == "near" and finish.route.reason == "explored"
    assert kept.decisions[0].inputs["p_near"] == 0.1  # what the choice was made by


async def test_the_usual_choice_is_logged_with_the_rest_of_the_chance() -> None:
    hybrid, kept = exploring(near(("near", SURE)), near(("far", SURE)), lambda: 0.9)
    assert (await read(hybrid, ask()))[0] == "near"
    assert kept.decisions[0].propensity == 0.75


@pytest.mark.parametrize(
    ("request_", "conditions"),
    [
        (ask(privacy=Privacy.LOCAL_ONLY), Conditions()),
        (ask(privacy=Privacy.ASK), Conditions()),
        (ask(budget=Budget(max_bytes_sent=1)), Conditions()),
        (ask(), Conditions(limits=DayLimits(num_bytes=1))),
        (ask(), Conditions(reachable=False)),
        (ask(deadline_s=60.0), Conditions()),
        (ask(model="auto-local"), Conditions()),
        (ask(model="auto-b20"), Conditions()),
        (Request(messages=(Message(role="user", content="Hello!"),)), Conditions()),
    ],
)
async def test_nothing_is_drawn_where_a_rule_a_budget_or_a_clock_decides(
    request_: Request, conditions: Conditions
) -> None:
    cloud = near(("far", SURE))
    hybrid, kept = exploring(near(("near", SURE)), cloud, conditions=lambda: conditions)
    text, finish = await read(hybrid, request_)
    assert text == "near" and finish.route.reason != "explored" and cloud.requests == []
    assert kept.decisions[0].propensity == 1.0


async def test_promised_quality_is_not_gambled_with() -> None:
    hybrid, kept = exploring(near(("near", SURE)), near(("far", SURE)), rule=Told())
    assert (await read(hybrid, ask(model="auto-q95")))[0] == "near"
    assert kept.decisions[0].propensity == 1.0


async def test_by_default_nothing_is_left_to_chance() -> None:
    cloud = near(("far", SURE))
    hybrid = Hybrid(near(("near", SURE)), cloud, chance=always)
    assert (await read(hybrid, ask()))[0] == "near" and PolicySettings().exploration == 0.0
    with pytest.raises(SettingsError, match=r"policy\.exploration"):
        PolicySettings(exploration=0.6)


class Simulated(Told):
    """A rule whose probabilities are read from the question itself: `p_near` in hundredths."""

    def expect(self, prompt: str) -> Any:
        return type(super().expect(prompt))(near=int(prompt) / 100, far=0.8)

    def judge(self, signals: Any, expected: Any, **rest: Any) -> Any:
        estimate = super().judge(signals, expected, **rest)
        return type(estimate)(score=expected.near, right=expected.near, far=0.8)


async def test_propensities_recover_what_another_policy_would_earn(tmp_path: Path) -> None:
    """Rewards are drawn by other odds than the policy believes: only what was logged tells them."""
    random_ = random.Random(4)
    ledger = Ledger(tmp_path / "ledger.sqlite")
    options = HybridOptions(rule=Simulated(), exploration=0.3)
    edge, cloud = near(("near", SURE)), near(("far", SURE))
    hybrid = Hybrid(edge, cloud, options=options, recorder=ledger, chance=random_.random)
    limit, truth, lines = Limit(max_need=0.5), [], []
    for _ in range(1500):
        p_near = random_.randrange(0, 81)
        odds = {"edge": 0.9 - p_near / 100, "cloud": 0.6}  # the surer, the worse
        request = Request(messages=(Message(role="user", content=str(p_near)),))
        _, finish = await read(hybrid, request)
        right = random_.random() < odds[finish.route.served_by]
        lines.append(json.dumps({"request_id": request.id, "reward": float(right)}))
        truth.append(odds["cloud" if 0.8 - p_near / 100 > 0.5 else "edge"])
    ledger.close()
    (tmp_path / "rewards.jsonl").write_text("\n".join(lines))
    with open_book(tmp_path / "ledger.sqlite") as book:
        rows = drawn_decisions(book.decisions(), read_rewards(tmp_path / "rewards.jsonl"), limit)
    found, expected = value_of(rows), sum(truth) / len(truth)
    assert found.num_rows == 1500
    assert abs(found.ips - expected) < 4 * found.ips_error
    assert abs(found.doubly_robust - expected) < 4 * found.doubly_robust_error
    assert found.doubly_robust_error < found.ips_error < 0.05
    believed = sum(each.p_far if each.wants_far else each.p_near for each in rows) / len(rows)
    assert abs(believed - expected) > 4 * found.ips_error, "a guess alone would not do"
    assert "inverse propensities" in report_lines(found, str(parse_aim("auto")))[-1]


def test_rewards_that_are_none_and_too_few_draws_are_told(tmp_path: Path) -> None:
    path = tmp_path / "rewards.jsonl"
    path.write_text('{"request_id": "a", "reward": 1}\n{"request_id": "b", "reward": 2}\n')
    with pytest.raises(RequestError, match="line 2"):
        read_rewards(path)
    path.write_text("{}")
    with pytest.raises(RequestError, match="line 1"):
        read_rewards(path)
    with pytest.raises(RequestError, match="cannot be read"):
        read_rewards(tmp_path / "none.jsonl")
    one = DrawnDecision(
        asked_far=True, propensity=0.5, reward=1.0, p_near=0.5, p_far=0.5, wants_far=True
    )
    with pytest.raises(RequestError, match=r"policy\.exploration"):
        value_of([one])
