"""What the hybrid does with names, deadlines, seams and a rule that knows the prompt."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from offload.aims import Aim
from offload.errors import CloudUnreachable, RequestError, Unsupported
from offload.hybrid.handover import accepted
from offload.hybrid.hybrid import Hybrid, HybridOptions
from offload.messages import Budget, Confidence, Finish, Privacy, Request
from offload.policy.serving.dispatch import Prices
from offload.policy.serving.rule import PromptEstimate, ThresholdRule
from offload.policy.serving.signals import Signals
from tests.offload.hybrid.pairs import SURE, UNSURE, Kept, Told, ask, near, read, said
from tests.offload.scripted import ScriptedEngine


async def test_names_choose_the_side_and_engines_never_see_them() -> None:
    edge, cloud = near(("near", SURE)), near(("far", SURE))
    hybrid = Hybrid(edge, cloud)
    assert {"auto", "auto-local", "auto-cloud", "auto-q95", "auto-b20"} <= set(hybrid.names())
    for name, text in (("auto", "near"), ("auto-local", "near"), ("auto-cloud", "far")):
        assert (await read(hybrid, ask(model=name)))[0] == text
    assert {request.model for request in edge.requests + cloud.requests} == {""}


async def test_an_unknown_name_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(RequestError, match="auto-local"):
        await read(Hybrid(near(("near", SURE)), None), ask(model="gpt-4"))
    with pytest.raises(RequestError, match="calibrate"):
        await read(Hybrid(near(("near", SURE)), near(("far", SURE))), ask(model="auto-q95"))


async def test_private_text_stays_whatever_name_is_asked_for() -> None:
    cloud = near(("far", SURE))
    hybrid = Hybrid(near(("near", UNSURE)), cloud)
    for name in hybrid.names():
        request = ask(model=name, privacy=Privacy.LOCAL_ONLY)
        assert (await read(hybrid, request))[0] == "near"
    assert cloud.requests == []


async def test_every_decision_is_recorded_with_what_it_was_made_of() -> None:
    kept = Kept([])
    hybrid = Hybrid(near(("near", UNSURE)), near(("far", SURE)), recorder=kept)
    _, finish = await read(hybrid, ask())
    (decision,) = kept.decisions
    assert decision.finish == finish and decision.propensity == 1.0
    assert decision.inputs["least_logprob"] == UNSURE and decision.inputs["aim"] == "auto"
    assert decision.inputs["near_tokens"] == 1.0


async def test_an_answer_is_judged_again_when_it_is_whole() -> None:
    hybrid = Hybrid(
        near(("near", SURE)), near(("far", SURE)), options=HybridOptions(rule=Told(right=0.5))
    )
    text, finish = await read(hybrid, ask())
    assert text == "far" and finish.route.reason == "unsure"
    assert finish.route.confidence == 0.5 and finish.route.p_gain == pytest.approx(0.45)


@pytest.mark.parametrize("right", [0.2, 0.55])
async def test_where_both_would_fail_nothing_is_spent(right: float) -> None:
    cloud = near(("far", SURE))
    rule = Told(near=right, right=right, far=right + 0.05)
    text, finish = await read(
        Hybrid(near(("near", SURE)), cloud, options=HybridOptions(rule=rule)), ask()
    )
    assert text == "near" and finish.route.reason == "neither" and cloud.requests == []


async def test_a_question_that_looks_too_hard_goes_straight_to_the_cloud() -> None:
    edge = near(("near", SURE))
    rule = Told(near=0.1, far=0.9, far_at_once_gain=0.7)
    text, finish = await read(
        Hybrid(edge, near(("far", SURE)), options=HybridOptions(rule=rule)), ask()
    )
    assert text == "far" and finish.route.reason == "too_hard" and edge.requests == []
    assert finish.route.p_gain == pytest.approx(0.8)


async def test_a_budget_of_a_fifth_is_kept_over_many_requests() -> None:
    edge, cloud = near(("near", SURE)), near(("far", SURE))
    options = HybridOptions(rule=Told(right=0.1, known=(0.0, 1.0)))
    hybrid = Hybrid(edge, cloud, options=options)
    finishes = [(await read(hybrid, ask(model="auto-b20")))[1] for _ in range(200)]
    far = sum(finish.route.served_by == "cloud" for finish in finishes)
    assert 30 <= far <= 50


async def test_what_would_cost_too_much_is_answered_near() -> None:
    cloud = near(("far", SURE))
    options = HybridOptions(prices=Prices(price_out=1_000_000.0))
    hybrid = Hybrid(near(("near", UNSURE)), cloud, options=options)
    _, finish = await read(hybrid, ask(budget=Budget(max_cost=1.0)))
    assert finish.route.reason == "over_price" and cloud.requests == []
    _, finish = await read(hybrid, ask())
    assert finish.route.served_by == "cloud" and finish.usage.cost == 3.0


async def test_the_cloud_goes_on_from_what_was_accepted() -> None:
    edge = near(("The sum is ", SURE), ("1", UNSURE), ("5, I think", SURE))
    cloud = near(("42", SURE))
    hybrid = Hybrid(edge, cloud, options=HybridOptions(handover="continue"))
    text, _ = await read(hybrid, ask())
    assert text == "The sum is 42"
    assert cloud.requests[0].answer_prefix == "The sum is "


async def test_what_the_asker_began_is_handed_over_too() -> None:
    edge = near(("The sum is ", SURE), ("1", UNSURE))
    cloud = near(("42", SURE))
    hybrid = Hybrid(edge, cloud, options=HybridOptions(handover="continue"))
    text, _ = await read(hybrid, ask(answer_prefix="So: "))
    assert text == "The sum is 42", "the asker has the beginning"
    assert edge.requests[0].answer_prefix == "So: "
    assert cloud.requests[0].answer_prefix == "So: The sum is "


async def test_a_cloud_that_cannot_go_on_begins_anew() -> None:
    def anew(request: Request) -> list[str]:
        if request.answer_prefix:
            raise Unsupported("no begun answers here")
        return ["42"]

    options = HybridOptions(handover="continue")
    edge = near(("The sum ", SURE), ("is 1", UNSURE))
    text, finish = await read(Hybrid(edge, ScriptedEngine(script=anew), options=options), ask())
    assert text == "42" and finish.route.served_by == "cloud"


@pytest.mark.parametrize("rescue", ["continue", "replace"])
async def test_on_a_lost_link_the_edge_ends_the_answer(rescue: Any) -> None:
    edge = ScriptedEngine(
        script=lambda r: [said("rest", SURE)] if r.answer_prefix else [said("anew", SURE)]
    )
    cloud = near(("It is ", SURE), ("for", SURE), ("x", SURE), error=CloudUnreachable("gone"))
    cloud.error_before = 2
    hybrid = Hybrid(edge, cloud, options=HybridOptions(rescue=rescue, forced="cloud"))
    text, finish = await read(hybrid, ask())
    assert text == ("It is rest" if rescue == "continue" else "anew")
    code = "cut_off" if rescue == "continue" else "cloud_failed"
    assert finish.route.served_by == "edge" and finish.route.reason == code
    assert finish.route.failure == "gone"


@pytest.mark.parametrize("num_bytes", [0, 153, None])
@pytest.mark.parametrize("forced", ["cloud", None])
async def test_what_had_left_before_the_cloud_failed_is_counted(
    num_bytes: int | None, forced: Any
) -> None:
    error = CloudUnreachable("gone")
    error.bytes_sent = num_bytes
    hybrid = Hybrid(
        near(("near", UNSURE)), near(("x", SURE), error=error), options=HybridOptions(forced=forced)
    )
    _, finish = await read(hybrid, ask())
    assert finish.route.failure == "gone" and finish.usage.bytes_sent == (num_bytes or 0)
    assert finish.route.sent_is_known is (num_bytes is not None)


async def test_where_there_is_no_time_for_one_after_the_other_both_start() -> None:
    rule, held = Told(near=0.3, far=0.95, right=0.3), asyncio.Event()
    edge, cloud = near(("near", SURE), hold=held, hold_before=0), near(("far", SURE))
    hybrid = Hybrid(edge, cloud, options=HybridOptions(rule=rule))
    for clock in (hybrid._near_latency, hybrid._far_latency):
        clock.note(ask(), Finish(reason="stop"), first_s=3.0, whole_s=3.0)
    job = asyncio.ensure_future(read(hybrid, ask(deadline_s=4.0)))
    await cloud.until(lambda: len(cloud.requests) == 1)
    assert not job.done()
    held.set()
    text, finish = await job
    assert text == "far" and finish.route.reason == "hedged"


async def test_a_hedged_answer_that_proves_right_stays_near() -> None:
    rule, held = Told(near=0.3, far=0.95, right=0.94), asyncio.Event()
    edge = near(("near", SURE), hold=held, hold_before=0)
    cloud = near(("far", SURE), hold=asyncio.Event(), hold_before=0)
    hybrid = Hybrid(edge, cloud, options=HybridOptions(rule=rule))
    for clock in (hybrid._near_latency, hybrid._far_latency):
        clock.note(ask(), Finish(reason="stop"), first_s=3.0, whole_s=3.0)
    job = asyncio.ensure_future(read(hybrid, ask(deadline_s=4.0)))
    await cloud.until(lambda: len(cloud.requests) == 1)
    held.set()
    text, finish = await job
    assert text == "near" and finish.route.served_by == "edge"
    assert finish.route.sent_is_known is False  # it was asked, and not waited for
    assert cloud.cancelled == [cloud.requests[0].id]


async def test_an_answer_in_circles_is_given_up() -> None:
    edge = near(*[("and on ", SURE)] * 200)
    text, finish = await read(Hybrid(edge, near(("far", SURE))), ask())
    assert text == "far" and finish.route.reason == "unsure"


CIRCLING = ["Once upon a time ", *["there was a king and "] * 200]


@pytest.mark.parametrize("cloud", [None, ScriptedEngine(error=CloudUnreachable("gone"))])
async def test_a_near_answer_in_circles_never_stands(cloud: ScriptedEngine | None) -> None:
    edge = near(*[(text, SURE) for text in CIRCLING])
    text, finish = await read(Hybrid(edge, cloud), ask())
    assert text == "Once upon a time there was a king and"
    assert finish.reason == "stop" and finish.route.served_by == "edge" and finish.route.cut
    assert edge.num_said[edge.requests[-1].id] < 40, "no more is written once it is seen"
    assert finish.usage.completion_tokens > 1 and finish.usage.decode_s > 0.0, "how quick it was"


async def test_what_is_said_again_on_purpose_stands() -> None:
    zeros = "[" + "0, " * 20 + "0]"
    text, finish = await read(Hybrid(near((zeros, SURE)), None), ask())
    assert text == zeros and not finish.route.cut


async def test_a_policy_of_another_cloud_gives_way_to_the_rule_of_the_first_day(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cloud = near(("far", SURE))
    rule = Told(right=0.1, cloud_model="another")
    hybrid = Hybrid(near(("near", SURE)), cloud, options=HybridOptions(rule=rule))
    assert (await read(hybrid, ask()))[0] == "far"  # until it answers, nobody knows its name
    for _ in range(2):
        _, finish = await read(hybrid, ask())
        assert finish.route.confidence != 0.1
    assert len(caplog.records) == 1
    assert "another" in caplog.text and "calibrate" in caplog.text
    with pytest.raises(RequestError, match="calibrated"):
        await read(hybrid, ask(model="auto-q95"))


def test_half_words_are_not_accepted() -> None:
    assert accepted("The answer is forty-tw") == "The answer is "
    assert accepted("12") == "" and accepted("") == ""
    assert accepted("one,") == "one,"
    assert accepted("今天天气很好") == "今天天气很好" and accepted("我用 Pyth") == "我用 "


def test_a_threshold_trips_on_its_least_token() -> None:
    signals = Signals()
    signals.take([Confidence(-0.5, 0.1, 1.0)])
    rule, limit = ThresholdRule(min_logprob=-1.0), ThresholdRule(min_logprob=-1.0).limit(Aim())
    assert not rule.gives_up(signals, PromptEstimate(), limit)
    signals.take([Confidence(-2.0, 0.1, 1.0)])
    assert rule.gives_up(signals, PromptEstimate(), limit)
