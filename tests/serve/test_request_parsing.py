"""What of a body reaches the engine, and which field is named where it cannot."""

from __future__ import annotations

import pytest

from serve.options import ServeOptions
from tests.offload.scripted import ScriptedEngine
from tests.serve.faces import ASK, CHAT, CONTINUE, TEXT, TOOL, error_of, near

CHOOSE_OTHER = {"type": "function", "function": {"name": "other"}}
JSON_OBJECT = {"type": "json_object"}
CALL = {"id": "c", "type": "function", "function": {"name": "look", "arguments": "{}"}}


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
        "logprobs": True,
        "top_logprobs": 0,
        "logit_bias": {"7": -100, "8": 2.5},
        "user": "somebody",
    }
    async with near(engine) as client:
        assert (await client.post(CHAT, json=ASK | wish)).status_code == 200
    sampling = engine.requests[0].sampling
    assert (sampling.max_tokens, sampling.temperature, sampling.top_p) == (7, 0.5, 0.75)
    assert (sampling.top_k, sampling.min_p, sampling.repetition_penalty) == (40, 0.125, 1.25)
    assert (sampling.seed, sampling.stop, sampling.json_schema) == (11, ("\n",), {})
    assert sampling.logit_bias == {7: -100.0, 8: 2.5}


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
            "messages[0].content[0].image_url.url",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
            "messages[0].content[0]",
        ),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "image_url", "image_url": {"url": "https://a/b.png"}}],
                    }
                ]
            },
            "messages[0].content[0].image_url",
        ),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [TOOL, TOOL]}, "tools[1].function.name"),
        ({"tools": [TOOL], "tool_choice": CHOOSE_OTHER}, "tool_choice"),
        (
            {"tools": [TOOL], "tool_choice": "required", "response_format": JSON_OBJECT},
            "tool_choice",
        ),
        (
            {"messages": [{"role": "user", "content": "a", "tool_calls": [CALL]}]},
            "messages[0].tool_calls",
        ),
        (
            {"messages": [{"role": "user", "content": "a", "tool_call_id": "c"}]},
            "messages[0].tool_call_id",
        ),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"frequency_penalty": 2.5}, "frequency_penalty"),
        ({"logit_bias": {"one": 5}}, "logit_bias"),
        ({"logit_bias": {"1": 500}}, "logit_bias[...]"),
        ({"logit_bias": {str(2**31): 5}}, "logit_bias"),
        ({"top_logprobs": 1}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
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
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": ["a"] * 17}, "n"),
        ({"logprobs": 21}, "logprobs"),
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


async def test_calls_and_their_results_go_back_into_the_conversation() -> None:
    engine = ScriptedEngine()
    turns = [
        {"role": "user", "content": "look"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "42", "tool_call_id": "c"},
    ]
    async with near(engine) as client:
        response = await client.post(CHAT, json=ASK | {"messages": turns, "tools": [TOOL]})
    assert response.status_code == 200
    _, called, result = engine.requests[0].messages
    assert called.content == "" and called.tool_calls[0].name == "look"
    assert (result.role, result.content, result.tool_call_id) == ("tool", "42", "c")


class NamedEngine(ScriptedEngine):
    """Answers to names of its own."""

    def names(self) -> tuple[str, ...]:
        return ("small", "large")


async def test_an_engine_with_names_is_told_which_was_asked_for() -> None:
    engine = NamedEngine()
    async with near(engine) as client:
        listed = (await client.get("/v1/models")).json()
        good = await client.post(CHAT, json=ASK | {"model": "large"})
        wrong = await client.post(CHAT, json=ASK | {"model": "scripted"})
    assert [each["id"] for each in listed["data"]] == ["small", "large"]
    assert good.status_code == 200 and wrong.status_code == 404
    assert [each.model for each in engine.requests] == ["large"]


async def test_an_engine_without_names_is_told_none() -> None:
    engine = ScriptedEngine()
    async with near(engine) as client:
        await client.post(CHAT, json=ASK | {"model": "auto"})
    assert engine.requests[0].model == ""


async def test_where_an_answer_ends_is_handed_on() -> None:
    engine = ScriptedEngine()
    wish = {"stop_token_ids": [3, 5], "min_tokens": 4, "ignore_eos": True, "max_tokens": 9}
    async with near(engine) as client:
        assert (await client.post(CHAT, json=ASK | wish)).status_code == 200
        wrong = await client.post(CHAT, json=ASK | wish | {"min_tokens": 10})
    asked = engine.requests[0].sampling
    assert (asked.stop_token_ids, asked.min_tokens, asked.ignore_eos) == ((3, 5), 4, True)
    assert wrong.status_code == 400 and "min_tokens" in error_of(wrong)["message"]


async def test_a_suffix_is_handed_on_and_the_text_before_it_may_be_empty() -> None:
    engine = ScriptedEngine()
    async with near(engine) as client:
        for prompt in ("def f(", ""):
            body = CONTINUE | {"prompt": prompt, "suffix": "):"}
            assert (await client.post(TEXT, json=body)).status_code == 200
        ids = await client.post(TEXT, json=CONTINUE | {"prompt": [1, 2], "suffix": "x"})
    assert [(each.prompt, each.suffix) for each in engine.requests] == [
        ("def f(", "):"),
        ("", "):"),
    ]
    assert ids.status_code == 400


async def test_only_a_chat_that_names_no_temperature_is_drawn_as_the_model_has_it() -> None:
    engine = ScriptedEngine()
    async with near(engine) as client:
        for path, body in ((CHAT, ASK), (CHAT, ASK | {"temperature": 0}), (TEXT, CONTINUE)):
            assert (await client.post(path, json=body)).status_code == 200
    assert [each.sampling.draws_own for each in engine.requests] == [True, False, False]
    assert [each.sampling.temperature for each in engine.requests] == [0.0, 0.0, 0.0]


async def test_the_settings_temperature_is_that_of_chats_alone() -> None:
    engine = ScriptedEngine()
    async with near(engine, options=ServeOptions(temperature=0.25)) as client:
        await client.post(CHAT, json=ASK)
        await client.post(TEXT, json=CONTINUE)
    assert [each.sampling.temperature for each in engine.requests] == [0.25, 0.0]


async def test_without_a_limit_as_many_tokens_are_asked_for_as_the_context_holds() -> None:
    engine = ScriptedEngine()
    async with near(engine) as client:
        for body in ({"max_tokens": -1}, {"max_completion_tokens": -1}, {}):
            assert (await client.post(CHAT, json={**ASK, **body})).status_code == 200
        sent = {"model": "scripted", "prompt": "a", "max_tokens": -1, "presence_penalty": 0.5}
        assert (await client.post(TEXT, json=sent)).status_code == 200
        for wrong in ({"max_tokens": 0}, {"max_completion_tokens": 0}, {"max_tokens": -2}):
            refused = await client.post(CHAT, json={**ASK, **wrong})
            assert refused.json()["error"]["param"] == next(iter(wrong))
    asked = [each.sampling for each in engine.requests if each.last_text() != "Hello"]
    assert [each.max_tokens for each in asked] == [4096] * 4
    assert asked[-1].presence_penalty == 0.5
