"""Thoughts of a model over HTTP: told apart, taken back in history, and switched by the client."""

from __future__ import annotations

from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from edge.llama.options import LlamaOptions
from edge.llama.runtime import LlamaEngine
from offload.messages import Delta, Finish, Message, Request, Sampling
from tests.edge.conftest import write_tiny_gguf
from tests.offload.scripted import ScriptedEngine
from tests.offload.upstreams import piece, read, says, upstream
from tests.serve.faces import ASK, CHAT, TOOL, error_of, events, near

SAID = ["<think>", "\n", "Let me", " see.\n", "</think>", "\n\n", "It is", " 4."]
CALL = '<tool_call>{"name": "look", "arguments": {"what": "x"}}</tool_call>'
THINKING = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' }}"
    "{% if m['reasoning_content'] %}{{ '(' + m['reasoning_content'] + ')' }}{% endif %}"
    "{{ m['content'] }}{% endfor %}{{ '<|assistant|>' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}"
    "{{ '<think></think>' }}{% else %}{{ '<think>\\n' }}{% endif %}"
)


async def test_thoughts_are_told_apart_in_an_answer_and_in_a_stream() -> None:
    async with near(ScriptedEngine(SAID)) as client:
        message = (await client.post(CHAT, json=ASK)).json()["choices"][0]["message"]
        told = events((await client.post(CHAT, json=ASK | {"stream": True})).text)
    assert (message["reasoning_content"], message["content"]) == ("Let me see.", "It is 4.")
    deltas = [each["choices"][0]["delta"] for each in told[:-1]]
    assert "".join(each.get("reasoning_content", "") for each in deltas) == "Let me see."
    assert "".join(each.get("content", "") for each in deltas) == "It is 4."
    assert len([each for each in deltas if each.get("content")]) > 1, "word by word"


async def test_an_answer_without_thoughts_has_no_such_field() -> None:
    async with near(ScriptedEngine()) as client:
        message = (await client.post(CHAT, json=ASK)).json()["choices"][0]["message"]
    assert "reasoning_content" not in message


async def test_a_call_behind_thoughts_is_a_call_and_one_within_is_none() -> None:
    engine = ScriptedEngine([f"<think>I could say {CALL}.</think>\n{CALL}"])
    async with near(engine) as client:
        body = (await client.post(CHAT, json=ASK | {"tools": [TOOL]})).json()["choices"][0]
    assert len(body["message"]["tool_calls"]) == 1 and body["finish_reason"] == "tool_calls"
    assert CALL in body["message"]["reasoning_content"]


async def test_thoughts_that_the_limit_cut_off_are_thoughts() -> None:
    engine = ScriptedEngine(["<think>Hm"], finish=Finish(reason="length"))
    async with near(engine) as client:
        choice = (await client.post(CHAT, json=ASK)).json()["choices"][0]
    assert choice["message"]["reasoning_content"] == "Hm" and choice["message"]["content"] == ""
    assert choice["finish_reason"] == "length"


async def test_the_tags_stand_in_json_as_they_are() -> None:
    wish = ASK | {"response_format": {"type": "json_object"}}
    async with near(ScriptedEngine(['{"a": "<think>"}'])) as client:
        message = (await client.post(CHAT, json=wish)).json()["choices"][0]["message"]
    assert message["content"] == '{"a": "<think>"}'


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
async def test_thoughts_come_back_in_history(name: str) -> None:
    engine = ScriptedEngine()
    turns = [
        *ASK["messages"],
        {"role": "assistant", "content": "4", name: "2 and 2"},
        *ASK["messages"],
    ]
    async with near(engine) as client:
        await client.post(CHAT, json=ASK | {"messages": turns})
    assert [each.reasoning for each in engine.requests[0].messages] == ["", "2 and 2", ""]


async def test_variables_of_the_template_are_handed_on_and_its_own_are_not() -> None:
    engine = ScriptedEngine()
    wish = ASK | {"chat_template_kwargs": {"enable_thinking": False}}
    async with near(engine) as client:
        await client.post(CHAT, json=wish)
        for name in ("messages", "tools", "add_generation_prompt", "a b"):
            response = await client.post(CHAT, json=ASK | {"chat_template_kwargs": {name: 1}})
            assert response.status_code == 400
            assert error_of(response)["param"] == "chat_template_kwargs"
    assert engine.requests[0].template_options == {"enable_thinking": False}


async def test_a_template_opens_the_thoughts_and_takes_the_clients_variables(
    tmp_path: Path,
) -> None:
    path = write_tiny_gguf(tmp_path / "thinks.gguf", chat_template=THINKING)
    turns = (
        Message(role="user", content="a"),
        Message(role="assistant", content="b", reasoning="why"),
        Message(role="user", content="c"),
    )
    async with aclosing(LlamaEngine(path, options=LlamaOptions(num_threads=1))) as engine:

        async def first(options: dict[str, Any] | None) -> str:
            request = Request(
                messages=turns, sampling=Sampling(max_tokens=3), template_options=options
            )
            items = [item async for item in engine.generate(request)]
            assert isinstance(items[0], Delta)
            return items[0].text

        assert await first(None) == "<think>\n"
        assert await first({"enable_thinking": False}) != "<think>\n"
        request = Request(messages=turns, template_options={"enable_thinking": False})
        assert engine.written(engine.prompt_tokens(request)).endswith(
            "<|assistant|>(why)b<|user|>c<|assistant|><think></think>"
        )


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
async def test_an_upstreams_thoughts_are_said_as_models_write_them(name: str) -> None:
    def thought(text: str) -> dict[str, Any]:
        return {"choices": [{"index": 0, "delta": {name: text, "content": None}}]}

    last = piece("It is 4.", "stop")
    text, _ = await read(upstream(says(thought("Let me"), thought(" see."), last, "[DONE]")))
    assert text == "<think>\nLet me see.\n</think>\n\nIt is 4."
    cut = {"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]}
    text, _ = await read(upstream(says(thought("Let me"), cut, "[DONE]")))
    assert text.startswith("<think>\nLet me")
