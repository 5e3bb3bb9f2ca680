"""OpenAI-compatible servers as a test wants them, without a socket."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx

from offload.messages import (
    Delta,
    Finish,
    Message,
    Request,
    Sampling,
)
from offload.upstream.client import Upstream

CHAT = Request(messages=(Message(role="user", content="count"),), sampling=Sampling(max_tokens=9))

URL = "http://there:8000/v1"

MODELS = {"object": "list", "data": [{"id": "m", "owned_by": "vllm", "max_model_len": 512}]}

Handler = Callable[[httpx.Request], httpx.Response]


def sse(*events: Any) -> bytes:
    said = [event if isinstance(event, str) else json.dumps(event) for event in events]
    return "".join(f": a comment\n\ndata: {each}\n\n" for each in said).encode()


def piece(text: str = "", reason: str | None = None, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text, **more}, "finish_reason": reason}]}


def upstream(reply: Handler, owner: str = "vllm", **options: Any) -> Upstream:
    models = {"data": [{**MODELS["data"][0], "owned_by": owner}]}

    def handle(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/models"):
            return httpx.Response(200, json=models)
        return reply(request)

    return Upstream(URL, transport=httpx.MockTransport(handle), **options)


def says(*events: Any) -> Handler:
    return lambda request: httpx.Response(200, content=sse(*events))


async def read(engine: Upstream, request: Request = CHAT) -> tuple[str, Finish]:
    items = [item async for item in engine.generate(request)]
    finish = items.pop()
    assert isinstance(finish, Finish)
    return "".join(item.text for item in items if isinstance(item, Delta)), finish
