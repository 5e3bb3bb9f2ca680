"""POST /v1/responses, as OpenAI's own client uses it: text, events, schemas and tools."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import openai
import pytest

from offload.messages import Finish, Usage
from serve.app import build_app
from tests.offload.scripted import ScriptedEngine
from tests.serve.faces import asked_chats

END = Finish(reason="stop", usage=Usage(prompt_tokens=7, completion_tokens=3))
TOOL: Any = {
    "type": "function",
    "name": "weather",
    "description": "Weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": True,
}
CALL = '<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>'


@asynccontextmanager
async def client_of(engine: ScriptedEngine) -> AsyncIterator[openai.AsyncOpenAI]:
    transport = httpx.ASGITransport(app=build_app(engine))
    http = httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:1/v1")
    async with openai.AsyncOpenAI(
        base_url="http://127.0.0.1:1/v1", api_key="any", http_client=http, max_retries=0
    ) as client:
        yield client


async def test_a_whole_response_has_its_text_and_what_it_took() -> None:
    engine = ScriptedEngine(finish=END)
    async with client_of(engine) as client:
        told = await client.responses.create(
            model="scripted",
            instructions="Be brief.",
            input="count",
            max_output_tokens=20,
            temperature=0.5,
        )
    assert told.output_text == "one two three" and told.status == "completed"
    assert told.usage is not None and told.usage.total_tokens == 10
    asked = asked_chats(engine)[-1]
    assert [(turn.role, turn.content) for turn in asked.messages] == [
        ("system", "Be brief."),
        ("user", "count"),
    ]
    assert (asked.sampling.max_tokens, asked.sampling.temperature) == (20, 0.5)


async def test_a_stream_has_typed_events_that_end_with_the_response() -> None:
    async with client_of(ScriptedEngine(finish=END)) as client:
        stream = await client.responses.create(model="scripted", input="count", stream=True)
        events = [event async for event in stream]
    assert [event.type for event in events] == [
        "response.created",
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * 3,
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))  # type: ignore[union-attr]
    async with (
        client_of(ScriptedEngine(finish=END)) as client,
        client.responses.stream(model="scripted", input="count") as gathered,
    ):
        whole = await gathered.get_final_response()
    assert whole.output_text == "one two three"


async def test_a_call_of_a_tool_and_its_output_go_round() -> None:
    engine = ScriptedEngine([CALL[:30], CALL[30:]], finish=END)
    async with client_of(engine) as client:
        for stream in (False, True):
            if stream:
                async with client.responses.stream(
                    model="scripted", input="weather?", tools=[TOOL]
                ) as events:
                    told: Any = await events.get_final_response()
            else:
                told = await client.responses.create(
                    model="scripted", input="weather?", tools=[TOOL]
                )
            (call,) = told.output
            assert (call.type, call.name) == ("function_call", "weather")
            assert json.loads(call.arguments) == {"city": "Rome"}
        history: Any = [
            {"role": "user", "content": [{"type": "input_text", "text": "weather?"}]},
            {
                "type": "function_call",
                "call_id": call.call_id,
                "name": call.name,
                "arguments": call.arguments,
            },
            {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"},
        ]
        await client.responses.create(model="scripted", input=history, tools=[TOOL])
    turns = asked_chats(engine)[-1].messages
    assert [turn.role for turn in turns] == ["user", "assistant", "tool"]
    assert turns[1].tool_calls[0].id == turns[2].tool_call_id == call.call_id


async def test_thoughts_schemas_and_a_cut_answer() -> None:
    engine = ScriptedEngine(["<think>hm</think>", "yes"], finish=END)
    async with client_of(engine) as client:
        told = await client.responses.create(model="scripted", input="x")
        assert [item.type for item in told.output] == ["reasoning", "message"]
        assert told.output_text == "yes"
        schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
        form: Any = {"format": {"type": "json_schema", "name": "a", "schema": schema}}
        await client.responses.create(model="scripted", input="x", text=form)
    assert asked_chats(engine)[-1].sampling.json_schema == schema
    async with client_of(ScriptedEngine(finish=Finish(reason="length"))) as client:
        cut = await client.responses.create(model="scripted", input="x")
    assert cut.status == "incomplete" and cut.incomplete_details is not None
    assert cut.incomplete_details.reason == "max_output_tokens"


@pytest.mark.parametrize(
    ("wish", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"background": True}, "background"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"no_such_field": 1}, "no_such_field"),
    ],
)
async def test_what_cannot_be_kept_is_refused_by_its_name(wish: dict[str, Any], param: str) -> None:
    transport = httpx.ASGITransport(app=build_app(ScriptedEngine()))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:1") as client:
        sent = {"model": "scripted", "input": "x", **wish}
        response = await client.post("/v1/responses", json=sent)
    assert response.status_code == 400 and response.json()["error"]["param"] == param
