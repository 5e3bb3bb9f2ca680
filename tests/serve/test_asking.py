"""What of a body reaches the engine, and which field is named where it cannot."""

from __future__ import annotations

import pytest

from tests.offload.scripted import ScriptedEngine
from tests.serve.faces import ASK, CHAT, CONTINUE, TEXT, error_of, near


async def test_every_wish_reaches_the_engine() -> None:
    engine = ScriptedEngine()
    wish = {
        "max_completion_tokens": 7,
        "temperature": 0.5,
        "top_p": 0.75,
        "top_k": 40,
        "min_p": 0.125,
        "repetition_penalty": 1.25,
        "seed": 11,
        "stop": "\n",
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}},
        "user": "somebody",
    }
    async with near(engine) as client:
        assert (await client.post(CHAT, json=ASK | wish)).status_code == 200
    sampling = engine.requests[0].sampling
    assert (sampling.max_tokens, sampling.temperature, sampling.top_p) == (7, 0.5, 0.75)
    assert (sampling.top_k, sampling.min_p, sampling.repetition_penalty) == (40, 0.125, 1.25)
    assert (sampling.seed, sampling.stop, sampling.json_schema) == (11, ("\n",), {})


async def test_without_a_limit_a_chat_may_fill_the_context() -> None:
    engine = ScriptedEngine()
    async with near(engine) as client:
        await client.post(CHAT, json=ASK)
        await client.post(TEXT, json=CONTINUE)
    assert [each.sampling.max_tokens for each in engine.requests] == [4096, 16]


async def test_parts_of_text_are_one_message_and_a_developer_is_the_system() -> None:
    engine = ScriptedEngine()
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    turns = [{"role": "developer", "content": "be brief"}, {"role": "user", "content": parts}]
    async with near(engine) as client:
        await client.post(CHAT, json=ASK | {"messages": turns})
    told = [(each.role, each.content) for each in engine.requests[0].messages]
    assert told == [("system", "be brief"), ("user", "ab")]


@pytest.mark.parametrize(
    ("wish", "param"),
    [
        ({"model": 5}, "model"),
        ({"temperatur": 1}, "temperatur"),
        ({"temperature": 3}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"n": 0}, "n"),
        ({"n": 17}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "max_tokens"),
        ({"stop": ""}, "stop"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"seed": 2**64}, "seed"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"x": 1}}, "stream_options.x"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": " "}]}, "messages[0].content"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "robot", "content": "a"}]}, "messages[0].role"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages[0].content[0]",
        ),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"logit_bias": {"1": 5}}, "logit_bias"),
        ({"top_logprobs": 1}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 1}, "top_logprobs"),
        ({"response_format": {"type": "yaml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    ],
)
async def test_a_wrong_field_is_named(wish: dict[str, object], param: str) -> None:
    engine = ScriptedEngine()
    async with near(engine) as client:
        response = await client.post(CHAT, json=ASK | wish)
    assert response.status_code == 400 and error_of(response)["param"] == param
    assert not engine.requests


@pytest.mark.parametrize(
    ("wish", "param"),
    [
        ({"prompt": [1, 2]}, "prompt[0]"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": ["a"] * 17}, "n"),
        ({"logprobs": 2}, "logprobs"),
        ({"logprobs": 0, "echo": True}, "echo"),
        ({"suffix": "x"}, "suffix"),
        ({"best_of": 3}, "best_of"),
    ],
)
async def test_a_wrong_field_of_a_raw_completion_is_named(
    wish: dict[str, object], param: str
) -> None:
    async with near(ScriptedEngine()) as client:
        response = await client.post(TEXT, json=CONTINUE | wish)
    assert response.status_code == 400 and error_of(response)["param"] == param


async def test_a_schema_nested_too_deeply_is_refused() -> None:
    schema: dict[str, object] = {}
    for _ in range(40):
        schema = {"properties": schema}
    form = {"type": "json_schema", "json_schema": {"name": "deep", "schema": schema}}
    async with near(ScriptedEngine()) as client:
        response = await client.post(CHAT, json=ASK | {"response_format": form})
    assert error_of(response)["param"] == "response_format.json_schema.schema"
