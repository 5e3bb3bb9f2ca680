"""The embedded near model behind a real server: what OpenAI's client reads is what it wrote."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from edge.llama.runtime import LlamaEngine, LlamaOptions
from offload.hybrid.hybrid import Hybrid
from offload.messages import Delta, Message, Request, Sampling
from offload.pair import EDGE_MODEL
from tests.offload.scripted import ScriptedEngine
from tests.serve.faces import CHAT, TEXT, error_of, listening, openai_client

QUESTION = "What is the capital of France?"
TURNS: Any = [{"role": "user", "content": QUESTION}]


@pytest.fixture
async def engine() -> AsyncIterator[LlamaEngine]:
    made = LlamaEngine(EDGE_MODEL, options=LlamaOptions(num_threads=1))
    yield made
    await made.aclose()


async def own_words(engine: LlamaEngine) -> list[Delta]:
    request = Request(
        messages=(Message(role="user", content=QUESTION),), sampling=Sampling(max_tokens=20)
    )
    return [item async for item in engine.generate(request) if isinstance(item, Delta)]


async def test_whole_and_streamed_are_what_the_engine_wrote(engine: LlamaEngine) -> None:
    deltas = await own_words(engine)
    async with listening(engine) as server, openai_client(server.url) as client:
        whole = await client.chat.completions.create(
            model="auto", messages=TURNS, max_completion_tokens=20, logprobs=True
        )
        stream = await client.chat.completions.create(
            model="auto", messages=TURNS, max_completion_tokens=20, stream=True
        )
        streamed = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    text = "".join(delta.text for delta in deltas)
    assert text and whole.choices[0].message.content == streamed == text
    logprobs = whole.choices[0].logprobs
    assert logprobs is not None and logprobs.content is not None
    assert [each.logprob for each in logprobs.content] == pytest.approx(
        [each.logprob for delta in deltas for each in delta.confidence], abs=1e-3
    )


async def test_an_unsure_near_model_is_replaced_without_a_trace(engine: LlamaEngine) -> None:
    far = ScriptedEngine(["from", " afar"])
    unsure = [{"role": "user", "content": "Who was the third cousin of Qzx of Vbn?"}]
    async with listening(Hybrid(engine, far)) as server, openai_client(server.url) as client:
        asking: Any = {"model": "auto", "messages": unsure, "temperature": 2, "seed": 1}
        stream = await client.chat.completions.create(stream=True, **asking)
        chunks = [chunk async for chunk in stream]
        whole = await client.chat.completions.create(**asking)
    told = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    if not far.requests:
        pytest.skip("this edge model was sure of nonsense, so nothing was replaced")
    assert told == whole.choices[0].message.content == "from afar"


async def test_a_long_prompt_is_refused_and_never_cut(engine: LlamaEngine) -> None:
    async with listening(engine) as server, httpx.AsyncClient(timeout=60) as client:
        for path, body in (
            (CHAT, {"messages": [{"role": "user", "content": "word " * 6000}]}),
            (TEXT, {"prompt": "word " * 6000}),
        ):
            response = await client.post(server.url + path, json={"model": "auto", **body})
            assert response.status_code == 400
            assert error_of(response)["code"] == "context_length_exceeded"


async def test_clients_that_hang_up_leave_nothing_behind(engine: LlamaEngine) -> None:
    body = {"model": "auto", "prompt": "a", "temperature": 2, "stream": True, "max_tokens": 400}
    async with listening(engine) as server, httpx.AsyncClient(timeout=60) as client:
        for _ in range(8):
            async with client.stream("POST", server.url + TEXT, json=body) as response:
                await anext(response.aiter_lines())
        asked = {"model": "auto", "messages": TURNS, "max_tokens": 5}
        last = await client.post(server.url + CHAT, json=asked, timeout=60)
        page = (await client.get(server.url + "/metrics")).text
    assert last.status_code == 200
    assert "num_requests_running 0.0" in page and "num_requests_waiting 0.0" in page
