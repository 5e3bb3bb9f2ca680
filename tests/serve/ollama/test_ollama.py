"""Ollama's API: what its clients send is understood, and they read what they expect."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import httpx
import pytest

from offload.engine import Engine
from offload.errors import ContextLengthError
from offload.messages import Delta, Finish, Usage
from offload.model_store import PullProgress
from serve.app import build_app
from serve.ollama.lines import stamp
from serve.ollama.routes import PATHS, ollama_routes
from tests.offload.scripted import ScriptedEngine
from tests.serve.faces import asked_chats
from tests.serve.ollama.stores import Store

HI = [{"role": "user", "content": "hi"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
END = Finish(
    reason="stop",
    usage=Usage(prompt_tokens=7, completion_tokens=3, prefill_s=0.5, decode_s=0.25),
)


class Holding(ScriptedEngine):
    """A scripted engine that notes for how long its model shall stay, and makes embeddings."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.held: list[float | None] = []

    def in_use(self, keep_alive_s: float | None = None) -> AbstractAsyncContextManager[object]:
        self.held.append(keep_alive_s)

        @asynccontextmanager
        async def held() -> AsyncIterator[None]:
            yield

        return held()

    async def embed(self, texts: list[str]) -> list[list[float]]:
        return [[float(len(text)), 0.0] for text in texts]


@asynccontextmanager
async def reached(
    engine: Engine, store: Store | None = None, *, may_change: bool = False
) -> AsyncIterator[httpx.AsyncClient]:
    shelf = store or Store()
    app = build_app(
        engine, further=lambda parts: ollama_routes(parts, shelf, may_change=may_change)
    )
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:1") as client:
        yield client


async def lines(client: httpx.AsyncClient, path: str, **body: Any) -> list[dict[str, Any]]:
    response = await client.post(path, json={"model": "scripted", **body})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in response.text.splitlines()]


async def test_a_chat_streams_by_default_and_ends_with_what_it_took() -> None:
    async with reached(Holding(finish=END)) as client:
        *pieces, end = await lines(client, "/api/chat", messages=HI)
    assert [each["message"]["content"] for each in pieces] == ["one", " two", " three"]
    assert all(each["message"]["role"] == "assistant" and not each["done"] for each in pieces)
    assert (end["done"], end["done_reason"], end["message"]["content"]) == (True, "stop", "")
    assert (end["prompt_eval_count"], end["eval_count"]) == (7, 3)
    assert (end["prompt_eval_duration"], end["eval_duration"]) == (500_000_000, 250_000_000)
    assert end["total_duration"] > 0 and end["load_duration"] >= 0
    assert end["created_at"].endswith("Z")


async def test_a_whole_answer_is_one_object() -> None:
    async with reached(Holding(finish=END)) as client:
        sent = {"model": "scripted", "messages": HI, "stream": False}
        body = (await client.post("/api/chat", json=sent)).json()
        assert body["message"] == {"role": "assistant", "content": "one two three"}
        sent = {"model": "scripted", "prompt": "hi", "stream": False}
        body = (await client.post("/api/generate", json=sent)).json()
        assert body["response"] == "one two three" and body["done"] and body["eval_count"] == 3


async def test_options_and_formats_reach_the_engine() -> None:
    engine = Holding(["{}"])
    options = {
        "num_predict": 12,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.1,
        "seed": 7,
        "stop": ["END"],
        "repeat_penalty": 1.1,
        "num_ctx": 2048,
        "num_gpu": 1,
    }
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    async with reached(engine) as client:
        await lines(client, "/api/chat", messages=HI, options=options, keep_alive="1m")
        await lines(client, "/api/chat", messages=HI, format="json", options={"num_predict": -1})
        await lines(client, "/api/generate", prompt="hi", system="be brief", format=schema)
        await lines(client, "/api/generate", prompt="once", raw=True)
    first, second, third, fourth = [r for r in engine.requests if r.last_text() != "Hello"]
    got = first.sampling
    assert (got.max_tokens, got.temperature, got.top_p, got.top_k) == (12, 0.5, 0.9, 40)
    assert (got.min_p, got.seed, got.stop, got.repetition_penalty) == (0.1, 7, ("END",), 1.1)
    assert second.sampling.json_schema == {"type": "object"}
    assert second.sampling.max_tokens == 4096 == fourth.sampling.max_tokens
    assert [turn.role for turn in third.messages] == ["system", "user"]
    assert third.sampling.json_schema == schema
    assert fourth.prompt == "once" and not fourth.messages
    assert engine.held == [60.0, None, None, None]


async def test_tools_are_called_with_an_object_and_their_answers_find_their_calls() -> None:
    call = '<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>'
    engine = Holding([call[:20], call[20:]])
    async with reached(engine) as client:
        *pieces, end = await lines(client, "/api/chat", messages=HI, tools=[TOOL])
        message = next(each["message"] for each in pieces if "tool_calls" in each["message"])
        called = {"function": {"name": "weather", "arguments": {"city": "Rome"}}}
        assert message["tool_calls"] == [called] and end["done"]
        history = [*HI, message, {"role": "tool", "content": "sunny", "tool_name": "weather"}]
        sent = {"model": "scripted", "messages": history, "tools": [TOOL], "stream": False}
        body = (await client.post("/api/chat", json=sent)).json()
        assert body["message"]["tool_calls"] == [called]
    said = asked_chats(engine)[-1].messages
    assert said[1].tool_calls[0].id == said[2].tool_call_id
    assert json.loads(said[1].tool_calls[0].arguments) == {"city": "Rome"}


async def test_thoughts_are_told_apart() -> None:
    engine = Holding(["<think>", "hm", "</think>", "yes"])
    async with reached(engine) as client:
        told = await lines(client, "/api/chat", messages=HI, think=True)
    assert "".join(each["message"].get("thinking", "") for each in told) == "hm"
    assert "".join(each["message"]["content"] for each in told) == "yes"
    assert asked_chats(engine)[-1].template_options == {"enable_thinking": True}


async def test_a_model_is_loaded_and_unloaded_by_asking_nothing() -> None:
    engine, store = Holding(), Store(busy="scripted")
    async with reached(engine, store) as client:
        sent = {"model": "scripted", "keep_alive": -1}
        assert (await client.post("/api/chat", json=sent)).json()["done_reason"] == "load"
        busy = await client.post("/api/generate", json={"model": "scripted", "keep_alive": 0})
        assert busy.status_code == 409 and "is answering" in busy.json()["error"]
        store.busy = ""
        done = await client.post("/api/generate", json={"model": "scripted", "keep_alive": "0s"})
        assert done.json() | {"created_at": ""} == {
            "model": "scripted",
            "created_at": "",
            "response": "",
            "done": True,
            "done_reason": "unload",
        }
    assert engine.held == [-1.0] and store.done == ["unload scripted"] * 2
    assert not asked_chats(engine)


async def test_errors_are_in_ollamas_form_before_and_within_a_stream() -> None:
    async with reached(Holding(error=ContextLengthError(9, 4))) as client:
        refused = await client.post("/api/chat", json={"model": "scripted", "messages": HI})
        assert refused.status_code == 400 and "maximum context" in refused.json()["error"]
    async with reached(Holding(error=ContextLengthError(9, 4), error_before=1)) as client:
        told = await lines(client, "/api/chat", messages=HI)
        assert told[0]["message"]["content"] == "one" and "maximum context" in told[-1]["error"]


@pytest.mark.parametrize(
    ("path", "body", "status", "told"),
    [
        ("/api/chat", {"model": "nope", "messages": HI}, 404, "there are scripted"),
        ("/api/chat", {"messages": HI}, 400, "model"),
        ("/api/chat", {"model": "scripted", "messages": [{**HI[0], "images": ["x"]}]}, 400, "pic"),
        ("/api/chat", {"model": "scripted", "messages": HI, "options": {"top_p": 7}}, 400, "top_p"),
        ("/api/chat", {"model": "scripted", "messages": HI, "keep_alive": "x"}, 400, "keep_alive"),
        (
            "/api/chat",
            {"model": "scripted", "messages": HI, "options": {"mirostat": 2}},
            400,
            "options.mirostat",
        ),
        ("/api/generate", {"model": "scripted", "prompt": "x", "template": "y"}, 400, "template"),
        ("/api/show", {"model": "nope"}, 404, "nope"),
        ("/api/show", {}, 400, "model is missing"),
        ("/api/pull", {"model": "x"}, 403, "serve.clients_change_models"),
        ("/api/embed", {"model": "scripted", "input": " "}, 400, "empty"),
    ],
)
async def test_what_cannot_be_done_is_said(
    path: str, body: dict[str, Any], status: int, told: str
) -> None:
    async with reached(Holding()) as client:
        response = await client.post(path, json=body)
    assert response.status_code == status and told in response.json()["error"], response.text


async def test_a_page_of_another_site_is_kept_out() -> None:
    async with reached(Holding()) as client:
        assert (await client.post("/api/chat", content=b"{}")).status_code == 415
        form = {"content-type": "text/plain"}
        for path in sorted(PATHS - {"/api/tags", "/api/ps", "/api/version", "/api/delete"}):
            assert (await client.post(path, content=b"{}", headers=form)).status_code == 415
        for path in ("/api/tags", "/api/chat"):
            assert (await client.get(path, headers={"host": "evil.example"})).status_code == 403


async def test_models_are_listed_shown_and_told_while_in_memory() -> None:
    async with reached(Holding()) as client:
        listed = (await client.get("/api/tags")).json()["models"]
        assert [each["name"] for each in listed] == ["scripted", "other"]
        assert listed[0]["details"]["format"] == "gguf" and listed[0]["size"] == 1000
        shown = (await client.post("/api/show", json={"name": "other"})).json()
        assert shown["capabilities"] == ["completion", "tools", "thinking", "embedding"]
        assert shown["model_info"] == {"llama.context_length": 4096}
        timed, kept = (await client.get("/api/ps")).json()["models"]
        assert timed["expires_at"] == "2023-11-14T22:18:20Z" and timed["context_length"] == 4096
        assert kept["expires_at"] > "2300"
        assert (await client.get("/api/version")).json()["version"].count(".") == 2


async def test_embeddings_come_for_one_text_and_several() -> None:
    engine = Holding()
    async with reached(engine) as client:
        sent = {"model": "scripted", "input": ["a", "bb"], "keep_alive": 5}
        told = (await client.post("/api/embed", json=sent)).json()
        assert told["embeddings"] == [[1.0, 0.0], [2.0, 0.0]]
        older = await client.post("/api/embeddings", json={"model": "scripted", "prompt": "abc"})
        assert older.json() == {"embedding": [3.0, 0.0]}
    assert engine.held == [5.0, None]


async def test_models_are_changed_only_where_that_is_allowed() -> None:
    store = Store()
    async with reached(Holding(), store) as client:
        refused = await client.request("DELETE", "/api/delete", json={"model": "other"})
        assert refused.status_code == 403 and not store.done
    async with reached(Holding(), store, may_change=True) as client:
        response = await client.post("/api/pull", json={"model": "new"})
        told = [json.loads(line) for line in response.text.splitlines()]
        assert told[0] == {"status": "pulling manifest"} and told[-1] == {"status": "success"}
        assert (told[1]["completed"], told[1]["total"]) == (5, 10)
        response = await client.post("/api/pull", json={"model": "broken"})
        assert "no such model" in json.loads(response.text.splitlines()[-1])["error"]
        whole = await client.post("/api/pull", json={"model": "new", "stream": False})
        assert whole.json() == {"status": "success"}
        gone = await client.request("DELETE", "/api/delete", json={"model": "other"})
        assert gone.status_code == 200
        missing = await client.request("DELETE", "/api/delete", json={"model": "nope"})
        assert missing.status_code == 404
    assert store.done[-2:] == ["unload other", "delete other"]


async def test_a_piece_without_text_is_no_line() -> None:
    async with reached(Holding([Delta(text=""), Delta(text="x")])) as client:
        told = await lines(client, "/api/generate", prompt="x", raw=True)
    assert [each["response"] for each in told] == ["x", ""]


async def test_what_is_kept_for_ages_is_listed_with_a_date() -> None:
    engine = Holding()
    async with reached(engine) as client:
        await lines(client, "/api/chat", messages=HI, keep_alive="999999999999h")
    assert engine.held[0] is not None
    assert stamp(time.time() + engine.held[0]).startswith("20")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/embed", json.dumps({"model": "scripted", "input": ["hi"] * 2049}).encode()),
        ("/api/chat", b'{"model": "scripted", "options": {"a": [' + b"[]," * 400_000 + b"1]}}"),
        ("/api/show", b'{"model": "scripted", "a": [' + b"{}," * 400_000 + b"1]}"),
    ],
)
async def test_a_body_of_too_much_is_refused(path: str, body: bytes) -> None:
    async with reached(Holding()) as client:
        head = {"content-type": "application/json"}
        response = await client.post(path, content=body, headers=head)
    assert response.status_code == 400, response.text[:200]


async def test_models_are_fetched_one_by_one() -> None:
    class Slow(Store):
        most = now = 0

        def pull(self, name: str) -> Iterator[PullProgress]:
            self.now += 1
            self.most = max(self.most, self.now)
            time.sleep(0.01)
            self.now -= 1
            yield from super().pull(name)

    store = Slow()
    async with reached(Holding(), store, may_change=True) as client:
        sent = {"model": "new", "stream": False}
        await asyncio.gather(*(client.post("/api/pull", json=sent) for _ in range(5)))
    assert store.most == 1 and len(store.done) == 5
