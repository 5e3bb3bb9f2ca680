"""Pairs for learning: only finished answers to the same question, and only where it is allowed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from offload.egress.permission import Allowed
from offload.hybrid.answer_pair import AnswerPair
from offload.hybrid.hybrid import LEARNING_DRAWS, Hybrid, HybridOptions
from offload.messages import Message, Privacy, Request
from offload.policy.serving.first_day import FirstDayRule, first_day
from offload.policy.serving.rule import Rule, ThresholdRule
from tests.offload.hybrid.pairs import SURE, UNSURE, Kept, ask, near, read
from tests.offload.scripted import ScriptedEngine

_STAYS = Message(role="user", content="a secret", stays=True)


class Taught:
    """A learner that keeps what it is handed, and returns what a test gives it."""

    def __init__(self) -> None:
        self.pairs: list[AnswerPair] = []
        self.newer: Rule | None = None
        self.of_far: dict[str, Rule] = {}
        self.is_closed = False

    def take(self, pair: AnswerPair) -> None:
        self.pairs.append(pair)

    def newer_rule(self) -> Rule | None:
        newer, self.newer = self.newer, None
        return newer

    def rule_for(self, far_model: str) -> Rule | None:
        return self.of_far.get(far_model)

    async def aclose(self) -> None:
        self.is_closed = True


class AtTheEnd(ThresholdRule):
    """A threshold that is looked at when the answer has ended, as the rule of the first day."""

    def gives_up(self, *_: Any) -> bool:
        return False


def taught(
    edge: ScriptedEngine,
    cloud: ScriptedEngine,
    *,
    learns: bool = True,
    chance: Callable[[], float] = lambda: 0.9,
    **options: Any,
) -> tuple[Hybrid, Taught]:
    learner = Taught()
    chosen = HybridOptions(**{"rule": AtTheEnd(), **options})
    hybrid = Hybrid(
        edge,
        cloud,
        options=chosen,
        learner=learner,
        chance=chance,
        allowed=lambda: Allowed(learns=learns),
    )
    return hybrid, learner


async def test_an_unsure_answer_and_the_far_one_in_its_place_make_a_pair() -> None:
    hybrid, learner = taught(near(("4", UNSURE), ("1", SURE)), near(("42", SURE)))
    text, _ = await read(hybrid, ask())
    (pair,) = learner.pairs
    assert text == "42" and (pair.near.text, pair.far.text, pair.question) == (
        "41",
        "42",
        "question",
    )
    assert [each.logprob for each in pair.near.tokens] == [UNSURE, SURE]
    assert [each.logprob for each in pair.far.tokens] == [SURE]
    assert pair.far_model == "scripted" and pair.propensity == 1.0


async def test_an_explored_pair_knows_its_propensity() -> None:
    hybrid, learner = taught(
        near(("41", SURE)), near(("42", SURE)), chance=lambda: 0.0, exploration=0.25
    )
    await read(hybrid, ask())
    assert learner.pairs[0].propensity == 0.25


@pytest.mark.parametrize(
    ("request_", "options"),
    [
        (ask(), {"learns": False}),
        (ask(model="auto-local"), {}),
        (ask(model="auto-cloud"), {}),  # nothing was answered near
        (ask(privacy=Privacy.LOCAL_ONLY), {}),
        (Request(prompt="raw text"), {}),
        (Request(messages=(_STAYS, Message(role="user", content="question"))), {}),
        (Request(messages=(Message(role="user", content="Hello!"),)), {}),
    ],
)
async def test_no_pair_without_permission_or_without_two_whole_answers_to_one_question(
    request_: Request, options: dict[str, Any]
) -> None:
    edge = near(("4", UNSURE), ("1", SURE))
    hybrid, learner = taught(edge, near(("42", SURE)), **options)
    await read(hybrid, request_)
    assert learner.pairs == []


async def test_an_answer_that_was_given_up_unfinished_makes_no_pair() -> None:
    edge = near(("4", UNSURE), *[("1", SURE)] * 50)
    hybrid, learner = taught(edge, near(("42", SURE)), rule=ThresholdRule())
    await read(hybrid, ask())
    assert learner.pairs == [] and edge.cancelled


async def test_a_far_answer_that_goes_on_from_the_near_text_makes_no_pair() -> None:
    edge = near(("It is ", SURE), ("41", UNSURE))
    hybrid, learner = taught(edge, near(("42", SURE)), handover="continue")
    assert (await read(hybrid, ask()))[0] == "It is 42" and learner.pairs == []


async def test_a_newer_rule_decides_from_the_next_request_on_and_closing_closes() -> None:
    hybrid, learner = taught(near(("41", SURE)), near(("42", SURE)))
    kept = hybrid._recorder = Kept([])
    await read(hybrid, ask())
    learner.newer = FirstDayRule(first_day().file)
    await read(hybrid, ask())
    before, after = (each.inputs for each in kept.decisions)
    assert before["p_far"] is None and after["p_far"] is not None
    await hybrid.aclose()
    assert learner.is_closed


async def test_where_learning_is_switched_off_the_shipped_rule_decides_at_once() -> None:
    rule = FirstDayRule(first_day().file, far_model="scripted")
    for learns, expected in ((True, "scripted"), (False, None)):
        hybrid, _ = taught(near(("41", SURE)), near(("42", SURE)), learns=learns, rule=rule)
        await read(hybrid, ask())
        assert hybrid.deciding.rule.cloud_model == expected


async def test_another_far_model_brings_what_was_learnt_beside_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    mine = FirstDayRule(first_day().file, far_model="scripted")
    for of_far, told in ({"scripted": mine}, "learnt beside that one"), ({}, "first day"):
        other = FirstDayRule(first_day().file, far_model="another")  # learnt beside that one
        hybrid, learner = taught(near(("41", SURE)), near(("42", SURE)), rule=other)
        learner.of_far = of_far
        await read(hybrid, ask(model="auto-cloud"))
        assert "beside the far model another, not scripted" in caplog.text
        assert told in caplog.text
        caplog.clear()


async def test_while_learning_some_sure_answers_are_asked_far_and_no_doubtful_one_is_kept() -> None:
    hybrid, learner = taught(near(("41", SURE)), near(("42", SURE)), chance=lambda: 0.0)
    text, finish = await read(hybrid, ask())
    assert text == "42" and finish.route.reason == "explored"
    assert learner.pairs[0].propensity == LEARNING_DRAWS
    doubtful, learner = taught(near(("41", UNSURE)), near(("42", SURE)), chance=lambda: 0.0)
    text, finish = await read(doubtful, ask())
    assert text == "42" and finish.route.reason == "unsure"
    assert learner.pairs[0].propensity == 1.0
    silent, learner = taught(near(("41", SURE)), near(("42", SURE)), learns=False, chance=lambda: 0)
    assert (await read(silent, ask()))[0] == "41" and learner.pairs == []
