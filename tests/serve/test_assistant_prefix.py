"""An answer that the client has begun is gone on with, and only what follows is told."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

import pytest

from offload.messages import Delta, Message, Request, Sampling
from offload.upstream.client import Upstream
from tests.offload.scripted import ScriptedEngine
from tests.serve.faces import CHAT, TOOL, asked_chats, error_of, listening, near

QUESTION = {"role": "user", "content": "count"}
BEGUN = {"role": "assistant", "content": "zero, "}
GO_ON = {"model": "scripted", "messages": [QUESTION, BEGUN], "continue_final_message": True}


@pytest.mark.parametrize("more", [{}, {"add_generation_prompt": False}, {"n": 2}])
async def test_the_last_turn_is_how_the_answer_begins(more: dict[str, Any]) -> None:
    engine = ScriptedEngine()
    async with near(engine) as client:
        answer = (await client.post(CHAT, json=GO_ON | more)).json()
    assert {choice["message"]["content"] for choice in answer["choices"]} == {"one two three"}
    for asked in engine.requests:
        assert asked.answer_prefix == "zero, "
        assert [turn.content for turn in asked.messages] == ["count"]


async def test_without_the_word_the_last_turn_is_a_turn() -> None:
    engine = ScriptedEngine()
    turns = {"messages": [QUESTION, BEGUN], "add_generation_prompt": True}
    async with near(engine) as client:
        answer = await client.post(CHAT, json={"model": "scripted"} | turns)
    assert answer.status_code == 200 and engine.requests[0].answer_prefix == ""
    assert len(engine.requests[0].messages) == 2


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"messages": [QUESTION]}, "continue_final_message"),
        ({"messages": [BEGUN]}, "continue_final_message"),
        ({"add_generation_prompt": True}, "add_generation_prompt"),
        ({"tools": [TOOL]}, "tools"),
        ({"continue_final_message": None, "add_generation_prompt": False}, "add_generation_prompt"),
    ],
)
async def test_what_cannot_be_gone_on_with_is_refused(wrong: dict[str, Any], param: str) -> None:
    engine = ScriptedEngine()
    async with near(engine) as client:
        answer = await client.post(CHAT, json=GO_ON | wrong)
    assert answer.status_code == 400 and error_of(answer)["param"] == param
    assert not engine.requests


async def test_a_device_can_hand_a_begun_answer_to_our_own_endpoint() -> None:
    engine = ScriptedEngine()
    begun = Request(
        messages=(Message(role="user", content="count"),),
        answer_prefix="zero, ",
        sampling=Sampling(max_tokens=9),
    )
    async with listening(engine) as server, aclosing(Upstream(f"{server.url}/v1")) as upstream:
        told = [item.text async for item in upstream.generate(begun) if isinstance(item, Delta)]
    assert "".join(told) == "one two three"
    (arrived,) = asked_chats(engine)
    assert arrived.answer_prefix == "zero, " and arrived.messages == begun.messages
