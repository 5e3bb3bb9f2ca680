"""Ways to reach an engine over HTTP in a test: in this process, or through a real socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import openai

from offload.engine import Engine
from offload.messages import Request
from serve.app import build_app
from serve.options import ServeOptions
from serve.server import HttpServer
from tests.offload.scripted import ScriptedEngine

ASK = {"model": "scripted", "messages": [{"role": "user", "content": "count"}]}
CONTINUE = {"model": "scripted", "prompt": "zero"}
TOOL = {
    "type": "function",
    "function": {
        "name": "look",
        "description": "Look something up.",
        "parameters": {"type": "object", "properties": {"what": {"type": "string"}}},
    },
}
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


def asked_chats(engine: ScriptedEngine) -> list[Request]:
    """Return the chats that were asked of it, without the server's own first one."""
    chats = (each for each in engine.requests if each.messages)
    return [each for each in chats if each.messages[-1].content != "Hello"]


@asynccontextmanager
async def near(
    engine: Engine, options: ServeOptions | None = None, **client: Any
) -> AsyncIterator[httpx.AsyncClient]:
    """A client whose requests go straight into the app."""
    app = build_app(engine, options=options)
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=True)
    base = client.pop("base_url", "http://127.0.0.1:8080")
    async with httpx.AsyncClient(transport=transport, base_url=base, **client) as reached:
        yield reached


@asynccontextmanager
async def listening(
    engine: Engine, options: ServeOptions | None = None
) -> AsyncIterator[HttpServer]:
    """A real server on a free port."""
    options = options or ServeOptions(port=0)
    server = HttpServer(build_app(engine, options=options), options=options)
    await server.start()
    try:
        yield server
    finally:
        await asyncio.wait_for(server.aclose(), 60)


@asynccontextmanager
async def openai_client(url: str, key: str = "any") -> AsyncIterator[openai.AsyncOpenAI]:
    """OpenAI's own client, without its retries."""
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client:
        yield client


def events(text: str) -> list[Any]:
    """The data of each server-sent event; `[DONE]` stays a word."""
    assert text.endswith("\n\n"), "the last event is complete"
    data = [part.removeprefix("data: ") for part in text.split("\n\n")[:-1]]
    return [each if each == "[DONE]" else json.loads(each) for each in data]


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The error object, after a check of its form."""
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["message"]
    return dict(error)
