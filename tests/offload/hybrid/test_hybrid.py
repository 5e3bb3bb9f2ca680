"""The hybrid: one answer from two engines, and nothing leaves that must not."""

from __future__ import annotations

import asyncio
from typing import Literal

import pytest

from offload.egress.permission import AskConsent
from offload.errors import CloudUnreachable, ContextLengthError
from offload.hybrid.hybrid import Hybrid, HybridOptions
from offload.messages import Budget, Delta, Finish, Privacy, Request
from offload.policy.serving.rule import ThresholdRule
from tests.offload.hybrid.pairs import SURE, UNSURE, ask, far, near, read
from tests.offload.scripted import ScriptedEngine


def make(
    edge: ScriptedEngine,
    cloud: ScriptedEngine | None,
    consent: AskConsent | None = None,
    **options: object,
) -> Hybrid:
    chosen = HybridOptions(rule=ThresholdRule(min_logprob=-1.0), **options)  # type: ignore[arg-type]
    return Hybrid(edge, cloud, options=chosen, **({"consent": consent} if consent else {}))


async def test_a_sure_answer_stays_near() -> None:
    cloud = far()
    text, finish = await read(make(near(SURE, SURE), cloud), ask())
    assert text == "near0 near1 "
    assert finish.route.served_by == "edge" and finish.route.reason == "confident"
    assert cloud.requests == []


async def test_an_unsure_answer_is_replaced_by_the_clouds() -> None:
    edge = near(SURE, UNSURE, SURE, SURE, SURE, SURE)
    text, finish = await read(make(edge, far()), ask())
    assert text == "far0 far1 "
    assert finish.route.served_by == "cloud" and finish.route.reason == "unsure"


async def test_the_edge_is_stopped_once_the_cloud_answers() -> None:
    edge = near(UNSURE, *[SURE] * 50)
    await read(make(edge, far()), ask())
    assert len(edge.cancelled) == 1


async def test_the_edge_goes_on_while_the_cloud_is_awaited() -> None:
    held = asyncio.Event()
    edge, cloud = near(UNSURE, SURE, SURE), far(hold=held, hold_before=0)
    seen = []
    async for item in make(edge, cloud).generate(ask()):
        if isinstance(item, Delta):
            seen.append(item.text)
        if len(seen) == 3:
            held.set()
    assert seen == ["near0 ", "near1 ", "near2 ", "far0 ", "far1 "]


@pytest.mark.parametrize("privacy", [Privacy.LOCAL_ONLY, Privacy.ASK])
async def test_private_text_never_reaches_the_cloud_without_consent(privacy: Privacy) -> None:
    for forced in (None, "cloud"):
        cloud = far()
        text, finish = await read(make(near(UNSURE), cloud, forced=forced), ask(privacy=privacy))
        assert text == "near0 " and finish.route.served_by == "edge"
        assert cloud.requests == []


async def test_consent_lets_text_leave_and_is_asked_once() -> None:
    asked = []

    async def agree(request: Request) -> bool:
        asked.append(request.id)
        return True

    hybrid = make(near(UNSURE, UNSURE, UNSURE), far(), agree)
    text, _finish = await read(hybrid, ask(privacy=Privacy.ASK))
    assert text == "far0 far1 " and len(asked) == 1


async def test_offline_asks_nobody_even_when_forced_to_the_cloud() -> None:
    cloud = far()
    _, finish = await read(make(near(UNSURE), cloud, offline=True, forced="cloud"), ask())
    assert finish.route.reason == "offline" and cloud.requests == []


async def test_without_a_cloud_the_edge_answers() -> None:
    _, finish = await read(make(near(UNSURE), None), ask())
    assert finish.route.reason == "no_cloud"


async def test_a_text_over_its_byte_budget_stays_near() -> None:
    cloud = far()
    _, finish = await read(make(near(UNSURE), cloud), ask(budget=Budget(max_bytes_sent=3)))
    assert finish.route.reason == "over_budget" and cloud.requests == []


async def test_an_unreachable_cloud_leaves_the_edges_answer() -> None:
    cloud = far(error=CloudUnreachable("nothing answers"))
    text, finish = await read(make(near(UNSURE, SURE), cloud), ask())
    assert text == "near0 near1 "
    assert finish.route.served_by == "edge" and finish.route.reason == "cloud_failed"
    assert finish.route.failure == "nothing answers"


async def test_the_edge_goes_on_from_the_text_of_a_cloud_that_dies_in_mid_answer() -> None:
    cloud = far(error=CloudUnreachable("gone"), error_before=2)
    for options in ({}, {"forced": "cloud"}):
        text, finish = await read(make(near(UNSURE, SURE), cloud, **options), ask())
        assert text == "far0 far1 near0 near1 "
        assert finish.route.reason == "cut_off" and finish.route.failure == "gone"


async def test_the_edge_begins_anew_where_nothing_is_to_be_gone_on_from() -> None:
    cloud = far(error=CloudUnreachable("gone"), error_before=2)
    for options in ({}, {"forced": "cloud"}):
        hybrid = make(near(UNSURE, SURE), cloud, rescue="replace", **options)
        text, finish = await read(hybrid, ask())
        assert text == "near0 near1 "
        assert finish.route.reason == "cloud_failed"


async def test_no_model_goes_on_from_anothers_unfinished_thoughts() -> None:
    cloud = near(("<think>let me ", SURE), ("see ", SURE), error=CloudUnreachable("gone"))
    cloud.error_before = 2
    text, finish = await read(make(near(SURE), cloud, forced="cloud"), ask())
    assert text == "near0 " and finish.route.reason == "cloud_failed"


async def test_the_cloud_goes_on_from_the_text_of_a_near_model_that_failed() -> None:
    broken = Finish(reason="error", error="the output is no number")
    edge = near(("It is ", SURE), ("for", SURE), finish=broken)
    cloud = ScriptedEngine(script=lambda r: ["42" if r.answer_prefix == "It is " else "anew"])
    text, finish = await read(make(edge, cloud), ask())
    assert text == "It is 42" and finish.route.served_by == "cloud"
    assert finish.route.reason == "near_failed" and finish.reason == "stop"


async def test_where_both_fail_the_near_text_stands_with_its_error() -> None:
    broken = Finish(reason="error", error="the output is no number")
    edge = near(("It is ", SURE), finish=broken)
    text, finish = await read(make(edge, far(error=CloudUnreachable("gone"))), ask())
    assert text == "It is " and finish.error == "the output is no number"
    assert finish.route.failure == "gone"


async def test_a_forced_cloud_that_fails_is_answered_near() -> None:
    cloud = far(error=CloudUnreachable("nothing answers"))
    text, finish = await read(make(near(SURE), cloud, forced="cloud"), ask())
    assert text == "near0 " and finish.route.reason == "cloud_failed"


async def test_a_prompt_too_long_for_the_edge_goes_to_the_cloud() -> None:
    edge = near(error=ContextLengthError(200, 100))
    text, finish = await read(make(edge, far()), ask())
    assert text == "far0 far1 " and finish.route.reason == "too_long"


async def test_a_prompt_too_long_that_may_not_leave_is_refused() -> None:
    edge = near(error=ContextLengthError(200, 100))
    cloud = far()
    for request in (ask(privacy=Privacy.LOCAL_ONLY), ask(privacy=Privacy.ASK)):
        with pytest.raises(ContextLengthError):
            await read(make(edge, cloud), request)
    assert cloud.requests == []


@pytest.mark.parametrize("forced", [None, "cloud"])
async def test_a_prompt_too_long_for_both_sides_is_refused_as_too_long(
    forced: Literal["cloud"] | None,
) -> None:
    edge, cloud = near(error=ContextLengthError(900, 100)), far(error=ContextLengthError(900, 800))
    longest = 100 if forced else 800  # a forced cloud that cannot is answered near, as ever
    with pytest.raises(ContextLengthError, match=f"maximum context length is {longest} tokens"):
        await read(make(edge, cloud, forced=forced), ask())
    assert len(cloud.requests) == 1


async def test_leaving_early_closes_both_engines() -> None:
    held = asyncio.Event()
    edge, cloud = near(UNSURE, SURE, SURE), far(hold=held, hold_before=0)
    stream = make(edge, cloud).generate(ask())
    await anext(stream)
    await anext(stream)
    await stream.aclose()  # type: ignore[attr-defined]
    assert len(edge.cancelled) == 1
