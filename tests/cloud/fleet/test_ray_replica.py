"""One replica of the Ray application, without Ray: what a client's leaving and a failure do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from starlette.requests import Request

from cloud.ray_app import EngineReplica, checked_args
from tests.cloud.fleet.test_load_watch import busy_until
from tests.offload.scripted import ScriptedEngine

Send = Callable[[dict[str, Any]], Awaitable[None]]


def replica_of(face: str = "serve.app:build_app", **arguments: Any) -> EngineReplica:
    return EngineReplica(
        checked_args(
            {
                "engine": "tests.offload.scripted:ScriptedEngine",
                "arguments": arguments,
                "face": face,
            }
        )
    )


def question(**fields: Any) -> Request:
    chat = {"model": "scripted", "messages": [{"role": "user", "content": "a"}]} | fields
    body = {"type": "http.request", "body": json.dumps(chat).encode(), "more_body": False}

    async def receive() -> dict[str, Any]:
        return body

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/chat/completions",
        "query_string": b"",
        "headers": [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")],
    }
    return Request(scope, receive)


async def read(replica: EngineReplica, request: Request) -> bytes:
    response = await replica(request)
    return b"".join([piece async for piece in response.body_iterator])


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_comes_whole(stream: bool) -> None:
    answer = await read(replica_of(), question(stream=stream))
    assert b" three" in answer and answer.endswith(b"data: [DONE]\n\n") is stream


async def test_a_replica_tells_how_busy_it_is_and_how_long_its_answers_take() -> None:
    replica = replica_of(pause_s=0.01)
    assert replica.record_autoscaling_stats() == {"utilization": 0.0, "latency_s": 0.0}
    await read(replica, question())
    busy_until(0.05)
    told = replica.record_autoscaling_stats()
    assert 0 < told["utilization"] <= 1 and told["latency_s"] >= 0.03


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_ends_its_answer(stream: bool) -> None:
    replica = replica_of(hold=asyncio.Event())
    engine: ScriptedEngine = replica.engine
    asking = asyncio.create_task(read(replica, question(stream=stream)))
    await engine.until(lambda: bool(engine.num_said))
    asking.cancel()
    await engine.until(lambda: not engine.running)
    assert len(engine.cancelled) == 1


def refusing_face(engine: Any) -> Any:
    async def app(scope: Any, receive: Any, send: Send) -> None:
        raise ValueError("before the first byte")

    return app


def breaking_face(engine: Any) -> Any:
    async def app(scope: Any, receive: Any, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise ValueError("after the first byte")

    return app


@pytest.mark.parametrize(("face", "when"), [("refusing", "before"), ("breaking", "after")])
async def test_a_face_that_fails_is_told_and_never_ends_an_answer_well(
    face: str, when: str
) -> None:
    with pytest.raises(ValueError, match=when):
        await read(replica_of(f"{__name__}:{face}_face"), question())
