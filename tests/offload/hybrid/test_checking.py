"""A far model that reads the near answer first: what stands, what leaves, and what goes wrong."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from offload.errors import CloudFailed, Unsupported
from offload.hybrid.hybrid import Hybrid, HybridOptions
from offload.messages import Delta, Finish, Message, PromptToken, Request, Usage
from offload.policy.serving.rule import Limit
from tests.offload.hybrid.pairs import SURE, Told, ask, near, read
from tests.offload.scripted import ScriptedEngine, delta

NEAR = ["near0 ", "near1 "]
ACTIONS = frozenset({"near", "check", "ask"})
ENDS = Finish(reason="stop", usage=Usage(completion_tokens=2, bytes_sent=10, cost=1.0))


class Doubting(Told):
    """A rule that doubts every answer, and would keep one that a check finds likely."""

    def limit(self, aim: Any, *, min_gain: float | None = None, cost: float = 0.0) -> Limit:
        return Limit(max_need=0.4)


def reads(nats: float) -> Any:
    """Return a far model's script: how likely it finds what it reads, and its own answer."""

    def script(request: Request) -> Sequence[Delta | str]:
        if request.scored_turn is None:
            return [delta("far0 "), delta("far1 ", 1)]
        text = request.messages[request.scored_turn].content
        return [Delta(text="yes", token_ids=(1,), prompt_tokens=(PromptToken(5, text, nats),))]

    return script


def checking(cloud: ScriptedEngine, **options: Any) -> Hybrid:
    rule = Doubting(right=0.4, far=0.9)
    edge = near(("near0 ", SURE), ("near1 ", SURE))
    return Hybrid(edge, cloud, options=HybridOptions(rule=rule, actions=ACTIONS, **options))


async def test_an_answer_that_the_far_model_finds_likely_stands() -> None:
    cloud = ScriptedEngine(script=reads(-0.01), pause_s=0.0, finish=ENDS)
    text, finish = await read(checking(cloud), ask())
    assert text == "near0 near1 " and len(cloud.requests) == 1
    assert finish.route is not None and finish.route.reason == "checked" and finish.route.checked
    assert finish.route.served_by == "edge" and finish.route.confidence > 0.5
    assert finish.usage.bytes_sent == 10, "what left for the check is counted"


async def test_an_answer_that_falls_is_answered_by_the_far_model() -> None:
    cloud = ScriptedEngine(script=reads(-5.0), pause_s=0.0, finish=ENDS)
    text, finish = await read(checking(cloud), ask())
    assert text == "far0 far1 " and len(cloud.requests) == 2
    assert finish.route is not None and finish.route.served_by == "cloud" and finish.route.checked
    assert finish.usage.bytes_sent == 20
    first, second = cloud.requests
    assert first.messages[:1] == second.messages, "the cache is warm for the second"


async def test_nothing_is_checked_unless_it_may_be_chosen() -> None:
    cloud = ScriptedEngine(script=reads(-0.01), pause_s=0.0)
    hybrid = checking(cloud)
    plain = Hybrid(hybrid.edge, cloud, options=HybridOptions(rule=Doubting(right=0.4, far=0.9)))
    text, finish = await read(plain, ask())
    assert text == "far0 far1 " and finish.route is not None and not finish.route.checked
    assert [request.scored_turn for request in cloud.requests] == [None]


async def test_turns_that_stay_are_read_by_nobody() -> None:
    cloud = ScriptedEngine(script=reads(-0.01), pause_s=0.0)
    turns = (Message(role="user", content="x", stays=True), Message(role="user", content="?"))
    await read(checking(cloud), Request(messages=turns))
    assert [request.scored_turn for request in cloud.requests] == [None]


class CannotRead(ScriptedEngine):
    def generate(self, request: Request) -> Any:
        if request.scored_turn is not None:
            self.requests.append(request)
            raise Unsupported("no log-probabilities of a given text")
        return super().generate(request)


async def test_a_far_side_that_cannot_read_is_asked_to_once() -> None:
    cloud = CannotRead(script=reads(0.0), pause_s=0.0)
    hybrid = checking(cloud)
    for _ in range(3):
        assert (await read(hybrid, ask()))[0] == "far0 far1 "
    assert sum(request.scored_turn is not None for request in cloud.requests) == 1


async def test_a_far_model_that_accepts_all_is_left_out() -> None:
    cloud = ScriptedEngine(script=reads(-0.001), pause_s=0.0)
    hybrid = checking(cloud)
    reasons = [(await read(hybrid, ask()))[1].route for _ in range(22)]
    assert [each.reason for each in reasons if each] == ["checked"] * 20 + ["unsure"] * 2


@pytest.mark.parametrize("nats", [-0.01, -5.0])
async def test_a_link_cut_at_any_moment_leaves_one_whole_answer(nats: float) -> None:
    chance, ends = random.Random(3), {"near": 0, "far": 0, "both": 0}
    for _ in range(500):
        cut = CloudFailed("the link is gone; ask again") if chance.random() < 0.8 else None
        cloud = ScriptedEngine(
            script=reads(nats), pause_s=0.0, error=cut, error_before=chance.randrange(3)
        )
        edge = ScriptedEngine(
            script=lambda request: (
                ["and ", "near"] if request.answer_prefix else ["near0 ", "near1 "]
            ),
            pause_s=0.0,
        )
        options = HybridOptions(rule=Doubting(right=0.4, far=0.9), actions=ACTIONS)
        text, _ = await read(Hybrid(edge, cloud, options=options), ask())
        begun = {"far0 and near", "far0 far1 and near"}  # the near model goes on with the far text
        kinds = {"near0 near1 ": "near", "far0 far1 ": "far", **dict.fromkeys(begun, "both")}
        ends[kinds[text]] += 1
    assert ends["near"] > 50 and sum(ends.values()) == 500
