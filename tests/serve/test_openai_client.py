"""OpenAI's own client, against a real server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest

from offload.errors import CloudUnreachable, ContextLengthError
from offload.messages import Finish, Route, Usage
from serve.options import ServeOptions
from tests.offload.scripted import ScriptedEngine
from tests.serve.faces import listening, openai_client

TURNS: Any = [{"role": "user", "content": "count"}]
KEY = "k" * 32


@pytest.fixture
def engine() -> ScriptedEngine:
    route = Route(served_by="edge", reason="confident", confidence=0.5)
    usage = Usage(prompt_tokens=2, completion_tokens=3)
    return ScriptedEngine(finish=Finish(reason="stop", usage=usage, route=route))


@pytest.fixture
async def client(engine: ScriptedEngine) -> AsyncIterator[openai.AsyncOpenAI]:
    async with listening(engine) as server, openai_client(server.url) as made:
        yield made


async def test_a_chat(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model="scripted", messages=TURNS, logprobs=True, top_logprobs=0, n=2
    )
    assert [choice.message.content for choice in answer.choices] == ["one two three"] * 2
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None and logprobs.content is not None
    assert logprobs.content[0].logprob == -0.5
    assert answer.usage is not None and answer.usage.total_tokens == 8


async def test_a_streamed_chat(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model="auto", messages=TURNS, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    told = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert told == "one two three" and chunks[0].choices[0].delta.role == "assistant"
    usage = chunks[-1].usage
    assert usage is not None and usage.to_dict()["route"] == {
        "served_by": "edge",
        "reason": "confident",
        "confidence": 0.5,
    }


async def test_the_clients_own_accumulating_stream(client: openai.AsyncOpenAI) -> None:
    async with client.chat.completions.stream(model="scripted", messages=TURNS) as stream:
        answer = await stream.get_final_completion()
    assert answer.choices[0].message.content == "one two three"
    assert answer.choices[0].finish_reason == "stop"


async def test_a_raw_completion_whole_and_streamed(client: openai.AsyncOpenAI) -> None:
    whole = await client.completions.create(model="scripted", prompt="zero", logprobs=0)
    assert whole.choices[0].text == "one two three"
    stream = await client.completions.create(model="scripted", prompt="zero", stream=True)
    assert "".join([c.choices[0].text async for c in stream]) == "one two three"


async def test_the_models(client: openai.AsyncOpenAI) -> None:
    assert [model.id async for model in client.models.list()] == ["scripted", "auto"]
    assert (await client.models.retrieve("auto")).id == "auto"


async def test_a_mistake_is_the_clients_own_error_and_names_the_field(
    client: openai.AsyncOpenAI,
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(model="scripted", messages=TURNS, top_logprobs=3)
    assert caught.value.param == "top_logprobs"
    with pytest.raises(openai.NotFoundError) as unknown:
        await client.chat.completions.create(model="gpt-4", messages=TURNS)
    assert unknown.value.code == "model_not_found"


async def test_a_prompt_too_long_has_openais_code() -> None:
    engine = ScriptedEngine(error=ContextLengthError(9, 8))
    async with listening(engine) as server, openai_client(server.url) as client:
        with pytest.raises(openai.BadRequestError) as caught:
            await client.chat.completions.create(model="scripted", messages=TURNS, stream=True)
    assert caught.value.code == "context_length_exceeded"


async def test_an_error_in_mid_stream_reaches_the_reader() -> None:
    engine = ScriptedEngine(error=CloudUnreachable("the cloud is gone; ask again"), error_before=2)
    async with listening(engine) as server, openai_client(server.url) as client:
        stream = await client.chat.completions.create(model="scripted", messages=TURNS, stream=True)
        with pytest.raises(openai.APIError, match="the cloud is gone"):
            async for _ in stream:
                pass


async def test_a_key_opens_the_door_and_no_other_does(engine: ScriptedEngine) -> None:
    async with listening(engine, ServeOptions(port=0, api_keys=(KEY,))) as server:
        async with openai_client(server.url, KEY) as client:
            await client.chat.completions.create(model="scripted", messages=TURNS)
        async with openai_client(server.url, "x" * 32) as client:
            with pytest.raises(openai.AuthenticationError) as caught:
                await client.chat.completions.create(model="scripted", messages=TURNS)
    assert caught.value.code == "invalid_api_key"
