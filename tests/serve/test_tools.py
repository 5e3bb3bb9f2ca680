"""Calls of tools: found in what a model writes, forced by a schema, and never half told."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offload.messages import Delta, Finish, ToolCall
from serve.tool_calls import CallReader
from serve.tools import Toolbox
from tests.offload.scripted import ScriptedEngine
from tests.serve.faces import ASK, CHAT, TOOL, events, listening, near, openai_client

CALL = '<tool_call>\n{"name": "look", "arguments": {"what": "here"}}\n</tool_call>'
OFFER = ASK | {"tools": [TOOL]}
TOOLS = Toolbox(descriptions=(), names=frozenset({"look"}))
FORCE = {"type": "function", "function": {"name": "look"}}


def read(pieces: list[str], tools: Toolbox = TOOLS) -> tuple[str, list[ToolCall]]:
    reader = CallReader(tools)
    said = [each for piece in pieces for each in reader.push(piece)] + reader.flush()
    assert all(said), "nothing empty is said"
    text = "".join(each for each in said if isinstance(each, str))
    return text, [each for each in said if isinstance(each, ToolCall)]


@given(st.lists(st.integers(1, 12), max_size=60))
def test_where_the_pieces_end_changes_nothing(sizes: list[int]) -> None:
    whole, pieces = f"I will.\n{CALL}\n{CALL} < done", []
    for size in sizes:
        pieces.append(whole[:size])
        whole = whole[size:]
    text, calls = read([*pieces, whole])
    assert text == "I will.\n < done"[:7] + "\n < done"[1:]
    assert [(c.name, json.loads(c.arguments)) for c in calls] == [("look", {"what": "here"})] * 2
    assert len({c.id for c in calls}) == 2


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>{broken</tool_call>",
        '<tool_call>{"name": "unknown", "arguments": {}}</tool_call>',
        '<tool_call>{"name": "look", "argum',
        "a < b and <tool",
        "<tool_call>",
    ],
)
def test_what_only_looks_like_a_call_stays_text(text: str) -> None:
    assert read(list(text)) == (text, [])


@pytest.mark.parametrize(
    ("written", "arguments"),
    [
        ('{"name": "look"}', "{}"),
        ('{"name": "look", "parameters": {"a": 1}}', '{"a": 1}'),
        ('{"name": "look", "arguments": "{\\"a\\": 1}"}', '{"a": 1}'),
    ],
)
def test_models_write_arguments_in_several_ways(written: str, arguments: str) -> None:
    _, calls = read([f"<tool_call>{written}</tool_call>"])
    assert [call.arguments for call in calls] == [arguments]


def test_a_call_whose_end_the_model_left_out_is_a_call() -> None:
    assert len(read([CALL.removesuffix("\n</tool_call>")])[1]) == 1


async def test_a_chat_with_a_call_ends_with_tool_calls() -> None:
    engine = ScriptedEngine(["I look.", *CALL])
    async with near(engine) as client:
        body = (await client.post(CHAT, json=OFFER)).json()
    choice = body["choices"][0]
    assert choice["finish_reason"] == "tool_calls" and choice["message"]["content"] == "I look."
    (call,) = choice["message"]["tool_calls"]
    assert call["type"] == "function" and call["id"].startswith("call_")
    assert call["function"] == {"name": "look", "arguments": '{"what": "here"}'}
    assert engine.requests[0].tools[0]["function"]["name"] == "look"
    assert engine.requests[0].sampling.json_schema is None


async def test_a_streamed_call_has_its_number_and_none_of_its_text() -> None:
    engine = ScriptedEngine(["I look.", *CALL, *CALL])
    async with near(engine) as client:
        told = events((await client.post(CHAT, json=OFFER | {"stream": True})).text)
    deltas = [each["choices"][0]["delta"] for each in told[:-1]]
    assert "".join(each.get("content", "") for each in deltas) == "I look."
    calls = [call for each in deltas for call in each.get("tool_calls", [])]
    assert [call["index"] for call in calls] == [0, 1]
    assert told[-2]["choices"][0]["finish_reason"] == "tool_calls"


async def test_one_call_at_a_time_where_that_is_asked_for() -> None:
    async with near(ScriptedEngine([CALL, CALL])) as client:
        body = (await client.post(CHAT, json=OFFER | {"parallel_tool_calls": False})).json()
    assert len(body["choices"][0]["message"]["tool_calls"]) == 1


@pytest.mark.parametrize(("choice", "reason"), [("required", "tool_calls"), (FORCE, "stop")])
async def test_a_forced_call_is_held_to_a_schema(choice: Any, reason: str) -> None:
    engine = ScriptedEngine(['{"name": "look", ', '"arguments": {"what": "x"}}'])
    async with near(engine) as client:
        body = (await client.post(CHAT, json=OFFER | {"tool_choice": choice})).json()
    schema = engine.requests[0].sampling.json_schema
    assert schema is not None and schema["properties"]["name"] == {"enum": ["look"]}
    assert schema["properties"]["arguments"] == TOOL["function"]["parameters"]
    assert body["choices"][0]["finish_reason"] == reason
    assert body["choices"][0]["message"]["content"] is None
    assert len(body["choices"][0]["message"]["tool_calls"]) == 1


async def test_definitions_move_to_where_references_look_for_them() -> None:
    engine = ScriptedEngine(["{}"])
    parameters = {"$defs": {"A": {"type": "string"}}, "properties": {"a": {"$ref": "#/$defs/A"}}}
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    wish = {"tools": [tool, TOOL], "tool_choice": "required"}
    async with near(engine) as client:
        await client.post(CHAT, json=ASK | wish)
    schema = engine.requests[0].sampling.json_schema
    assert schema is not None and schema["$defs"] == {"A": {"type": "string"}}
    assert [each["properties"]["name"]["enum"] for each in schema["anyOf"]] == [["f"], ["look"]]


async def test_no_tools_are_told_where_none_may_be_called() -> None:
    engine = ScriptedEngine([CALL])
    async with near(engine) as client:
        body = (await client.post(CHAT, json=OFFER | {"tool_choice": "none"})).json()
    assert not engine.requests[0].tools
    assert body["choices"][0]["message"]["content"] == CALL


async def test_openais_client_puts_a_streamed_call_together() -> None:
    engine = ScriptedEngine([*CALL], finish=Finish(reason="stop"))
    tools: Any = [TOOL]
    async with listening(engine) as server, openai_client(server.url) as client:
        turns: Any = ASK["messages"]
        async with client.chat.completions.stream(
            model="scripted", messages=turns, tools=tools
        ) as stream:
            final = await stream.get_final_completion()
    calls = final.choices[0].message.tool_calls
    assert calls is not None and json.loads(calls[0].function.arguments) == {"what": "here"}


async def test_the_tokens_of_a_call_are_told_where_logprobs_are_asked_for() -> None:
    engine = ScriptedEngine([CALL[:20], Delta(text=CALL[20:])])
    wish = OFFER | {"stream": True, "logprobs": True}
    async with near(engine) as client:
        told = events((await client.post(CHAT, json=wish)).text)
    tokens = [
        token["token_id"]
        for each in told[:-1]
        if each["choices"][0].get("logprobs")
        for token in each["choices"][0]["logprobs"]["content"]
    ]
    assert tokens == [1000]
