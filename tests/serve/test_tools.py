"""Calls of tools: found in what a model writes, forced by a schema, and never half told."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offload.messages import Delta, Finish, ToolCall
from offload.tool_calls.call_reader import Began, CallReader, Grew, Said, read_whole
from offload.tool_calls.toolbox import Toolbox
from tests.offload.scripted import ScriptedEngine
from tests.serve.faces import ASK, CHAT, TOOL, events, listening, near, openai_client

OPEN, CLOSE = "<tool_call>", "</tool_call>"
CALL = '<tool_call>\n{"name": "look", "arguments": {"what": "here"}}\n</tool_call>'
OFFER = ASK | {"tools": [TOOL]}
TOOLS = Toolbox(descriptions=(), names=frozenset({"look"}))
FORCE = {"type": "function", "function": {"name": "look"}}


def stream(pieces: list[str], tools: Toolbox = TOOLS) -> list[Said]:
    reader = CallReader(tools)
    said = [each for piece in pieces for each in reader.push(piece)] + reader.flush()
    assert all(said), "nothing empty is said"
    assert Grew("") not in said
    return said


def read(pieces: list[str], tools: Toolbox = TOOLS) -> tuple[str, list[ToolCall]]:
    """Put a stream together, as clients do."""
    text, calls = "", list[ToolCall]()
    for said in stream(pieces, tools):
        if isinstance(said, str):
            text += said
        elif isinstance(said, Began):
            calls.append(ToolCall(id=said.id, name=said.name, arguments=""))
        else:
            longer = calls[-1].arguments + said.arguments
            calls[-1] = msgspec.structs.replace(calls[-1], arguments=longer)
    return text, calls


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
    assert read_whole(text, TOOLS) == (text, [])


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


ARGUMENTS = st.dictionaries(
    st.text(max_size=8) | st.just(CLOSE),
    st.recursive(
        st.none()
        | st.integers()
        | st.text(max_size=12)
        | st.sampled_from([CLOSE, OPEN, '"}', "\\"]),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
        max_leaves=5,
    ),
    max_size=3,
)


@given(st.lists(ARGUMENTS, min_size=1, max_size=3), st.lists(st.integers(1, 9), max_size=80))
def test_any_arguments_arrive_whole_however_they_are_cut(given_: Any, sizes: list[int]) -> None:
    told = [json.dumps({"name": "look", "arguments": each}) for each in given_]
    whole = " then ".join(f"{OPEN}\n{each}\n{CLOSE}" for each in told)
    rest, pieces = whole, []
    for size in sizes:
        pieces.append(rest[:size])
        rest = rest[size:]
    text, calls = read([*pieces, rest])
    assert text == " then" * (len(given_) - 1), "the space before a call is its own"
    assert [json.loads(call.arguments) for call in calls] == given_
    again, same = read_whole(whole, TOOLS)
    assert again == text and [call.arguments for call in same] == [c.arguments for c in calls]


FORCED = Toolbox(descriptions=(), names=frozenset({"look"}), forced=True, max_calls=1)


def test_the_arguments_of_a_forced_call_are_told_while_they_are_written() -> None:
    reader = CallReader(FORCED)
    told = [reader.push(piece) for piece in ('{"name": "look", ', '"arguments": {"wh')]
    assert told[0] == []
    began, grew = told[1]
    assert isinstance(began, Began) and (began.name, grew) == ("look", Grew('{"wh'))
    assert reader.push('at": "') == [Grew('at": "')]
    assert reader.push('here"}}') == [Grew('here"}')]
    assert reader.flush() == [] and not reader.is_cut


def test_a_forced_call_that_is_cut_off_is_begun_in_a_stream_and_text_in_a_whole_answer() -> None:
    cut = '{"name": "look", "arguments": {"what": "he'
    text, (call,) = read([cut], FORCED)
    assert (text, call.arguments) == ("", '{"what": "he')
    assert read_whole(cut, FORCED) == (cut, [])


def test_a_call_is_told_when_its_arguments_are_known_to_fit() -> None:
    reader = CallReader(TOOLS)
    assert reader.push(f'Hm. {OPEN}{{"name": "look", "arguments": {{"what": ') == ["Hm."]
    assert reader.push('"here"') == []
    began, grew = reader.push("}}" + CLOSE)
    assert isinstance(began, Began) and grew == Grew('{"what": "here"}')
    assert reader.push(" Done") == [" Done"]


def test_a_call_that_is_cut_off_stays_text() -> None:
    cut = 'Hm. <tool_call>{"name": "look", "arguments": {"what": "he'
    assert read([cut]) == read(list(cut)) == (cut, [])
    assert read_whole(cut, TOOLS) == (cut, [])


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ('{"name": "look", "arguments": {}, "id": "x}"}</tool_call> and', " and"),
        ('{"name": "look", "arguments": {}} and so on', " and so on"),
        ('{"name": "look", "arguments": {}</tool_call> and', " and"),
        ('{"arguments": {}, "name": "look"}</tool_call> and', " and"),
    ],
)
def test_nothing_behind_a_call_is_lost(written: str, text: str) -> None:
    for pieces in ([OPEN + written], list(OPEN + written)):
        said, calls = read(pieces)
        assert (said, [call.arguments for call in calls]) == (text, ["{}"])


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
    parts = [part for each in deltas for part in each.get("tool_calls", [])]
    begun = [part for part in parts if "id" in part]
    assert [(part["index"], part["type"]) for part in begun] == [(0, "function"), (1, "function")]
    assert all(part["function"].get("name", "look") == "look" for part in parts)
    for number in (0, 1):
        own = [part["function"]["arguments"] for part in parts if part["index"] == number]
        assert json.loads("".join(own)) == {"what": "here"}
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


@pytest.mark.parametrize("choice", ["auto", "required", FORCE])
async def test_openais_accumulator_reads_several_calls_and_forced_ones(choice: Any) -> None:
    called = '{"name": "look", "arguments": {"what": "h\\u00e9re </tool_call>"}}'
    said = [*CALL, *f"{OPEN}{called}{CLOSE}"] if choice == "auto" else [*called]
    engine = ScriptedEngine(["Let me see. ", *said] if choice == "auto" else said)
    tools: Any = [TOOL]
    async with listening(engine) as server, openai_client(server.url) as client:
        turns: Any = ASK["messages"]
        async with client.chat.completions.stream(
            model="scripted", messages=turns, tools=tools, tool_choice=choice
        ) as stream_:
            kinds = [event.type async for event in stream_]
            final = await stream_.get_final_completion()
    calls = final.choices[0].message.tool_calls or []
    assert json.loads(calls[-1].function.arguments) == {"what": "h\u00e9re </tool_call>"}
    assert len(calls) == (2 if choice == "auto" else 1)
    pieces = 1 if choice == "auto" else 10
    assert kinds.count("tool_calls.function.arguments.delta") >= pieces * len(calls)
    assert kinds.count("tool_calls.function.arguments.done") == len(calls)


async def test_a_stream_that_is_cut_within_a_call_ends_with_length() -> None:
    engine = ScriptedEngine(
        [*'<tool_call>{"name": "look", "arguments": {"wh'], finish=Finish(reason="length")
    )
    async with near(engine) as client:
        told = events((await client.post(CHAT, json=OFFER | {"stream": True})).text)
    assert told[-2]["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("result", ["", " \n", []])
async def test_a_tool_that_says_nothing_has_answered(result: Any) -> None:
    function = {"name": "look", "arguments": "{}"}
    turns = [
        *ASK["messages"],
        {"role": "assistant", "tool_calls": [{"id": "c1", "function": function}]},
        {"role": "tool", "tool_call_id": "c1", "content": result},
    ]
    engine = ScriptedEngine(["It is empty."])
    async with near(engine) as client:
        response = await client.post(CHAT, json=OFFER | {"messages": turns})
    assert response.status_code == 200
    assert engine.requests[0].messages[-1].content.strip() == ""
