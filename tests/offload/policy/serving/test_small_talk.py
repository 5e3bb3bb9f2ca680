"""Which turns ask nothing, and that they stay near where nothing is promised."""

from __future__ import annotations

from typing import Any

import pytest

from offload.aims import parse_aim
from offload.hybrid.hybrid import Hybrid, HybridOptions
from offload.messages import Confidence, Delta, Finish, Message, Request, Sampling
from offload.policy.serving.rule import Rule, ThresholdRule
from offload.policy.serving.small_talk import asks_nothing, is_small_talk
from tests.offload.hybrid.pairs import Told
from tests.offload.scripted import ScriptedEngine

COURTESIES = (
    *("Hello", "hello!", "HEY THERE", "hellooo", "Good morning :)", "Hi, how are you?"),
    *("thanks", "Thank you so much!!", "ok thanks, bye", "Great, well done.", "haha"),
    *("Guten Tag", "Vielen Dank!", "Merci beaucoup", "¡Hola!", "obrigado", "Dziękuję bardzo"),
    *("你好", "你好\uff01", "谢谢你\uff0c再见", "早上好啊", "こんにちは", "안녕하세요"),
)
QUESTIONS = (
    *("Hello, what is 17 + 25?", "thanks, now add 3", "hi-fi", "Great Britain", "hip", "ok"),
    *(
        "How are you able to do this?",
        "thank you note for my boss",
        "then",
        "good",
        "你好吗我问你一题",
    ),
    *("Say hello in French", "yes", "no", "?", "...", "hello " * 40, "谢谢用英语怎么说"),
)


def wavering(logprob: float) -> ScriptedEngine:
    sure = Confidence(logprob, 0.5, 0.1)
    return ScriptedEngine([Delta(text="Hello!", index=0, confidence=(sure,))])


def ask(text: str, *before: Message, **more: Any) -> Request:
    return Request(messages=(*before, Message(role="user", content=text)), **more)


async def route_of(rule: Rule, request: Request, logprob: float, **options: Any) -> tuple[str, str]:
    far = ScriptedEngine([Delta(text="far", index=0)])
    hybrid = Hybrid(wavering(logprob), far, options=HybridOptions(rule=rule, **options))
    items = [item async for item in hybrid.generate(request)]
    assert isinstance(items[-1], Finish) and items[-1].route is not None
    return items[-1].route.served_by, items[-1].route.reason


@pytest.mark.parametrize("text", COURTESIES)
def test_greetings_thanks_and_goodbyes_ask_nothing(text: str) -> None:
    assert asks_nothing(text)


@pytest.mark.parametrize("text", QUESTIONS)
def test_what_asks_anything_besides_is_no_small_talk(text: str) -> None:
    assert not asks_nothing(text)


def test_a_reply_to_the_models_question_a_tool_or_a_schema_may_ask_for_something() -> None:
    assert is_small_talk(ask("great"))
    assert not is_small_talk(ask("great", Message(role="assistant", content="Shall I go on?")))
    assert not is_small_talk(ask("great", Message(role="assistant", content="要继续吗\uff1f")))
    assert not is_small_talk(ask("hello", sampling=Sampling(json_schema={"type": "object"})))
    assert not is_small_talk(ask("hello", tools=({"type": "function"},)))


async def test_an_unsure_greeting_stays_near_and_an_unsure_answer_does_not() -> None:
    rule = ThresholdRule(min_logprob=-0.7)
    assert await route_of(rule, ask("hello"), -1.5) == ("edge", "small_talk")
    assert await route_of(rule, ask("What is 2 + 2?"), -1.5) == ("cloud", "unsure")
    assert await route_of(rule, ask("hello"), -9.0) == ("cloud", "unsure")


async def test_a_calibrated_rule_keeps_a_greeting_that_is_more_likely_right_than_not() -> None:
    assert await route_of(Told(right=0.7), ask("hello"), -1.0) == ("edge", "small_talk")
    assert await route_of(Told(right=0.7), ask("Why?"), -1.0) == ("cloud", "unsure")
    assert await route_of(Told(right=0.3), ask("hello"), -1.0) == ("cloud", "unsure")


async def test_a_promise_a_budget_and_a_gain_set_by_hand_hold_for_greetings_too() -> None:
    for options in ({"aim": parse_aim("auto-q95")}, {"min_gain": 0.1}):
        assert await route_of(Told(right=0.7), ask("hello"), -1.0, **options) == (
            "cloud",
            "unsure",
        )


async def test_a_greeting_under_a_forced_side_keeps_its_reason() -> None:
    rule = ThresholdRule(min_logprob=-0.7)
    assert await route_of(rule, ask("hello"), -0.1, forced="cloud") == ("cloud", "forced_cloud")
    assert await route_of(rule, ask("hello"), -0.1, offline=True) == ("edge", "offline")
