"""The forms in which models write calls: each is read, however it is cut, where it fits."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offload.tool_calls.call_reader import Began, CallReader, Said, read_whole
from offload.tool_calls.pythonic import parse_calls
from offload.tool_calls.toolbox import Toolbox
from serve.request_schema import ChatBody, decode
from serve.tools import read_tools
from tests.offload.scripted import ScriptedEngine
from tests.serve.faces import ASK, CHAT, error_of, events, near

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "get.clock-2", "parameters": {"type": "object"}}}
OFFER = ASK | {"tools": [WEATHER, CLOCK]}
ROME = '{"name": "weather", "arguments": {"city": "Rome", "days": 3}}'
OSLO = '{"name": "weather", "arguments": {"city": "Oslo"}}'
ROME_CALL, OSLO_CALL = ("weather", {"city": "Rome", "days": 3}), ("weather", {"city": "Oslo"})


def toolbox(**more: Any) -> Toolbox:
    tools = read_tools(decode(json.dumps(OFFER | more).encode(), ChatBody))
    assert tools is not None
    return tools


TOOLS = toolbox()


def told(said: list[Said]) -> tuple[str, list[tuple[str, Any]]]:
    text, calls = "", list[list[str]]()
    for each in said:
        if isinstance(each, str):
            text += each
        elif isinstance(each, Began):
            calls.append([each.name, ""])
        else:
            calls[-1][1] += each.arguments
    return text, [(name, json.loads(arguments)) for name, arguments in calls]


def streamed(text: str, sizes: list[int]) -> tuple[str, list[tuple[str, Any]]]:
    reader, said = CallReader(TOOLS), list[Said]()
    for size in sizes:
        said += reader.push(text[:size])
        text = text[size:]
    return told([*said, *reader.push(text), *reader.flush()])


def whole(text: str) -> tuple[str, list[tuple[str, Any]]]:
    said, calls = read_whole(text, TOOLS)
    return said, [(call.name, json.loads(call.arguments)) for call in calls]


FORMS = {
    "hermes": (f"<tool_call>\n{ROME}\n</tool_call>", "", [ROME_CALL]),
    "hermes behind text": (f"Wait.\n<tool_call>{ROME}</tool_call>", "Wait.", [ROME_CALL]),
    "another tag": (f"<tools>\n{ROME}\n{OSLO}\n</tools>", "", [ROME_CALL, OSLO_CALL]),
    "bare": (ROME, "", [ROME_CALL]),
    "bare, as parameters": (ROME.replace("arguments", "parameters"), "", [ROME_CALL]),
    "bare, in another order": (
        '{"arguments": {"city": "Oslo"}, "name": "weather"}',
        "",
        [OSLO_CALL],
    ),
    "bare, as openai": (
        '{"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}',
        "",
        [OSLO_CALL],
    ),
    "bare behind text": (f"I will look.\n\n{ROME}\n", "I will look.", [ROME_CALL]),
    "bare, two lines": (f"{ROME}\n{OSLO}", "", [ROME_CALL, OSLO_CALL]),
    "llama 3.1, several": (f"{ROME}; {OSLO}", "", [ROME_CALL, OSLO_CALL]),
    "a list": (f"[{ROME}, {OSLO}]", "", [ROME_CALL, OSLO_CALL]),
    "fenced": (f"```json\n{ROME}\n```", "", [ROME_CALL]),
    "fenced between text": (f"So:\n```\n{ROME}\n```\nDone.", "So:\nDone.", [ROME_CALL]),
    "python tag": (f"<|python_tag|>{ROME}", "", [ROME_CALL]),
    "pythonic": ("[weather(city='Rome', days=3)]", "", [ROME_CALL]),
    "pythonic, several": (
        '[weather(city="Rome", days=3), weather(city="Oslo"), get.clock-2()]',
        "",
        [ROME_CALL, OSLO_CALL, ("get.clock-2", {})],
    ),
    "mistral": (f"[TOOL_CALLS][{ROME}, {OSLO}]", "", [ROME_CALL, OSLO_CALL]),
    "mistral, newer": (
        '[TOOL_CALLS]weather[ARGS]{"city": "Oslo"}[TOOL_CALLS]get.clock-2[CALL_ID]a1[ARGS]{}',
        "",
        [OSLO_CALL, ("get.clock-2", {})],
    ),
    "functionary": (
        'weather\n{"city": "Oslo"}>>>get.clock-2\n{}',
        "",
        [OSLO_CALL, ("get.clock-2", {})],
    ),
    "functionary behind text": (
        '>>>all\nI look.\n>>>weather\n{"city": "Oslo"}\n>>>get.clock-2\n{}',
        "I look.",
        [OSLO_CALL, ("get.clock-2", {})],
    ),
    "function tag": ('<function=weather>{"city": "Oslo"}</function>', "", [OSLO_CALL]),
    "arguments in a string": (
        '{"name": "weather", "arguments": "{\\"city\\": \\"Oslo\\"}"}',
        "",
        [OSLO_CALL],
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_a_call_is_read_in_every_form(name: str) -> None:
    text, said, calls = FORMS[name]
    assert whole(text) == (said, calls)
    assert streamed(text, [1] * len(text)) == (said, calls), "as a stream, letter by letter"


@given(st.sampled_from(sorted(FORMS)), st.lists(st.integers(1, 9), max_size=40))
def test_where_the_pieces_end_changes_nothing(name: str, sizes: list[int]) -> None:
    text, said, calls = FORMS[name]
    assert streamed(text, sizes) == (said, calls)


NOT_CALLS = {
    "not offered": '{"name": "forecast", "arguments": {"city": "Rome"}}',
    "a wrong type": '{"name": "weather", "arguments": {"city": 7}}',
    "one too many": '{"name": "weather", "arguments": {"city": "Rome", "when": "now"}}',
    "one too few": '<tool_call>{"name": "weather", "arguments": {}}</tool_call>',
    "no object": '{"name": "weather", "arguments": ["Rome"]}',
    "half": '```json\n{"name": "weather", "arguments": {"city": "Ro',
    "the tool's description": json.dumps(WEATHER["function"]),
    "the tool itself": json.dumps(WEATHER),
    "data": '{"name": "weather", "city": "Rome"}',
    "one of a list": f"[{ROME}, 7]",
    "within a line": f"Write {ROME} there.",
    "python": "[weather(city=Rome)]",
    "python, evaluated": "[weather(city='Ro' + 'me')]",
    "a link": "[weather](https://example.org) and [weather",
    "code": "```python\nprint({'name': 'weather'})\n```\n",
    "a quotation": ">>> weather\n>>>",
    "its name": "weather is what we talk about",
    "tags": "a <b>bold</b> <i> word < 3 and <tool_call> or <function=weather> and <|python_tag|",
    "raw line ends in a string": '{"name": "weather", "arguments": {"city": "Ro\nme"}}',
}


@pytest.mark.parametrize("name", NOT_CALLS)
def test_what_only_looks_like_a_call_stays_text_to_the_letter(name: str) -> None:
    text = NOT_CALLS[name]
    assert whole(text) == (text, [])
    assert streamed(text, [1] * len(text)) == (text, [])


@given(st.text(alphabet="{}[]()<>`\"\\\n '=,:weather1", max_size=60), st.integers(1, 7))
def test_no_text_is_lost_and_none_is_made(text: str, size: int) -> None:
    said, calls = streamed(text, [size] * 60)
    assert (said, calls) == whole(text)
    if not calls and ">>>all\n" not in text:
        assert said == text


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "weather", "arguments": {"city": "' + "\\" * 40_000,
        "[" * 40_000,
        '{"name": "weather", "arguments": ' + '{"a":' * 20_000,
        "<" * 40_000,
        "\n>>>" * 10_000,
        "```json\n" * 8_000,
        '\n{"name": "weather' * 3_000,
        "[weather(a=" + "[" * 40_000,
        " " * 40_000 + "\n" * 40_000,
    ],
)
def test_no_text_takes_long(text: str) -> None:
    """However often a call might begin, each character is read a few times at most."""

    def steps(of: str) -> int:
        count, reader = 0, CallReader(TOOLS)
        source = reader.source
        take = source.take

        def counted(number: int) -> str:
            nonlocal count
            count += 1 + number
            return take(number)

        source.take = counted  # type: ignore[method-assign]
        reader.push(of)
        reader.flush()
        return count

    assert steps(text) <= 4 * len(text) + 100


def test_a_pattern_that_could_run_away_is_bounded() -> None:
    tool = json.loads(json.dumps(WEATHER))
    tool["function"]["parameters"]["properties"]["city"]["pattern"] = "^(a|aa)+(?=b)c$"
    tools = toolbox(tools=[tool])
    assert not tools.takes("weather", {"city": "a" * 5000})


@pytest.mark.parametrize(
    ("parameters", "why"),
    [
        ({"type": "float"}, "float"),
        ({"$ref": "http://example.org/schema.json"}, "example.org"),
        ({"properties": {"a": {"pattern": "("}}}, "regex"),
        ({"properties": {"a": {"type": "string", "required": True}}}, "array"),
    ],
)
async def test_a_schema_that_is_none_is_refused_by_its_place(parameters: Any, why: str) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    async with near(ScriptedEngine(["x"])) as client:
        response = await client.post(CHAT, json=ASK | {"tools": [tool]})
    assert response.status_code == 400 and why in error_of(response)["message"]
    assert error_of(response)["param"] == "tools[0].function.parameters"


async def test_a_bare_call_is_a_call_in_an_answer_and_in_a_stream() -> None:
    async with near(ScriptedEngine(["```json\n", ROME, "\n```"])) as client:
        body = (await client.post(CHAT, json=OFFER)).json()["choices"][0]
        told_ = events((await client.post(CHAT, json=OFFER | {"stream": True})).text)
    assert body["finish_reason"] == "tool_calls" and body["message"]["content"] is None
    assert body["message"]["tool_calls"][0]["function"]["name"] == "weather"
    assert told_[-2]["choices"][0]["finish_reason"] == "tool_calls"
    assert all(not each["choices"][0]["delta"].get("content") for each in told_[:-1])


def test_python_literals_are_read_and_nothing_is_evaluated() -> None:
    text = """[f(a=[1, -2.5, 1e3], b={'k': None, "l": True}, c='it\\'s \\u00e9\\n', d=false,)]"""
    calls = parse_calls(text)
    assert calls is not None and calls[0][0] == "f"
    assert json.loads(calls[0][1]) == {
        "a": [1, -2.5, 1000.0],
        "b": {"k": None, "l": True},
        "c": "it's \u00e9\n",
        "d": False,
    }
    for bad in ("[f(1)]", "[f(a=g())]", "[f(a=1)", "[f(a=1)] x", "[]", "[f(a=1e999)]", "f(a=1)"):
        assert parse_calls(bad) is None, bad
    assert parse_calls("[f(a=" + "[" * 10_000) is None
