"""A hostile upstream on a real socket: every trick ends in one line, in bounded time and memory."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
import tracemalloc
from contextlib import aclosing
from typing import Any

import msgspec
import pytest

from backbone.errors import NearfarError
from offload.errors import CloudFailed, LinkError
from offload.messages import Confidence, Delta, Finish, Request
from offload.upstream.client import Upstream
from tests.offload.upstream.hostile_server import OK, STREAM, HostileServer, whole
from tests.offload.upstreams import CHAT, piece, sse

SILENCE_S = 0.5
MOST_MEMORY = 64 << 20


async def answered(server: HostileServer, request: Request = CHAT) -> list[Delta | Finish]:
    async with server.listening():
        engine = Upstream(server.url, connect_timeout_s=2.0, silence_timeout_s=SILENCE_S)
        async with aclosing(engine):
            return [item async for item in engine.generate(request)]


HEAD = b"HTTP/1.1 200 OK\r\n"
EVENT = b'data: {"choices": [{"delta": {"content": "a"}}]}\n\n'

ENDLESS: dict[str, HostileServer] = {
    "a line": HostileServer(answer=STREAM + b"data: ", again=b"x" * 65_536),
    "headers": HostileServer(answer=HEAD, again=b"X-Header: " + b"y" * 1000 + b"\r\n"),
    "a header": HostileServer(answer=HEAD + b"X: ", again=b"y" * 65_536),
    "comments": HostileServer(answer=STREAM, again=b": still here\n\n", pause_s=0.01),
    "empty events": HostileServer(answer=STREAM, again=b"data: {}\n\n", pause_s=0.01),
    "single bytes": HostileServer(answer=STREAM, again=b"d", pause_s=0.01),
    "interim answers": HostileServer(again=b"HTTP/1.1 103 Early Hints\r\n\r\n", pause_s=0.01),
    "a head, byte by byte": HostileServer(answer=HEAD + b"X: ", again=b"y", pause_s=0.01),
    "words": HostileServer(answer=STREAM, again=EVENT * 100),
    "an error": HostileServer(answer=b"HTTP/1.1 500 No\r\n\r\n", again=b"x" * 65_536),
    "an error, byte by byte": HostileServer(
        answer=b"HTTP/1.1 500 No\r\n\r\n", again=b"x", pause_s=0.01
    ),
    "models": HostileServer(models=OK + b'\r\n{"data": [', models_again=b'{"id": "m"},' * 5000),
    "models, byte by byte": HostileServer(
        models=OK + b'\r\n{"data": [', models_again=b" ", pause_s=0.01
    ),
    "nothing": HostileServer(),
    "models that never come": HostileServer(models=b""),
}


@pytest.mark.parametrize("server", ENDLESS.values(), ids=ENDLESS)
async def test_what_never_ends_is_left(server: HostileServer) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(LinkError) as told:
            await asyncio.wait_for(answered(server), 60.0)
        assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY
    finally:
        tracemalloc.stop()
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("again", [b": still here\n\n", b"data: {}\n\n", b"d"])
async def test_a_deadline_holds_whatever_comes(again: bytes) -> None:
    request = msgspec.structs.replace(CHAT, deadline_s=0.2)
    server = HostileServer(answer=STREAM, again=again, pause_s=0.01)
    *_, finish = await asyncio.wait_for(answered(server, request), 60.0)
    assert isinstance(finish, Finish) and finish.reason == "deadline"


def redirected(place: bytes) -> HostileServer:
    head = b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: " + place + b"\r\n\r\n"
    return HostileServer(answer=head)


DEEP = "[" * 100_000
WRONG: dict[str, HostileServer] = {
    "more than its length": HostileServer(answer=HEAD + b"Content-Length: 9\r\n\r\n" + EVENT * 9),
    "less than its length": HostileServer(answer=HEAD + b"Content-Length: 999\r\n\r\n" + EVENT),
    "a length below zero": HostileServer(answer=HEAD + b"Content-Length: -1\r\n\r\n" + EVENT),
    "two lengths": HostileServer(
        answer=HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n" + EVENT
    ),
    "a chunk that is none": HostileServer(
        answer=HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"
    ),
    "a huge chunk": HostileServer(
        answer=HEAD + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n" + EVENT
    ),
    "a bomb": HostileServer(
        answer=HEAD
        + b"Content-Encoding: gzip\r\nConnection: close\r\n\r\n"
        + gzip.compress(bytes(50_000_000))
    ),
    "a bomb within another": HostileServer(
        answer=HEAD
        + b"Content-Encoding: gzip, gzip\r\nConnection: close\r\n\r\n"
        + gzip.compress(gzip.compress(bytes(50_000_000)))
    ),
    "to a file": redirected(b"file:///etc/passwd"),
    "by ftp": redirected(b"ftp://127.0.0.1/x"),
    "to a cloud's own address": redirected(b"http://169.254.169.254/latest/meta-data/"),
    "to itself": redirected(b"/v1/chat/completions"),
    "no answer of HTTP": HostileServer(answer=b"\x00\x01\x02 nonsense\r\n\r\n"),
    "another version": HostileServer(answer=b"HTTP/9.9 200 OK\r\n\r\n"),
    "101": HostileServer(
        answer=b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"
    ),
    "no content": HostileServer(answer=b"HTTP/1.1 204 No Content\r\n\r\n"),
    "deep JSON": HostileServer(answer=STREAM + f"data: {DEEP}\n\n".encode()),
    "a deep error": HostileServer(answer=STREAM + f'data: {{"error": {DEEP}\n\n'.encode()),
    "an error that is no text": HostileServer(
        answer=b'HTTP/1.1 400 No\r\nConnection: close\r\n\r\n{"error": {"message": "\xff\xfe"}}'
    ),
    "an error that is deep": HostileServer(
        answer=b"HTTP/1.1 400 No\r\nConnection: close\r\n\r\n" + DEEP.encode()
    ),
    "an error with commands": HostileServer(
        answer=b'HTTP/1.1 400 No\r\nConnection: close\r\n\r\n{"error": "\\u001b]52;c;aGk=\\u0007"}'
    ),
    "no likelihoods": HostileServer(
        answer=STREAM + b'data: {"choices": [{"logprobs": {"content": [{"logprob": NaN}]}}]}\n\n'
    ),
    "likelihoods out of range": HostileServer(
        answer=STREAM + b'data: {"choices": [{"logprobs": {"content": [{"logprob": 1e999}]}}]}\n\n'
    ),
    "more likelihoods than tokens": HostileServer(
        answer=STREAM + sse({"choices": [{"logprobs": {"content": [{"logprob": -1.0}] * 100_000}}]})
    ),
    "no models": HostileServer(models=whole(b'{"data": []}')),
    "models that are no list": HostileServer(models=whole(b'{"data": {"id": 7}}')),
    "deep models": HostileServer(models=whole(DEEP.encode())),
    "models of another place": HostileServer(
        models=b"HTTP/1.1 301 Moved\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n"
    ),
}


@pytest.mark.parametrize("server", WRONG.values(), ids=WRONG)
async def test_what_is_wrong_is_told_in_one_line(server: HostileServer) -> None:
    with pytest.raises(NearfarError) as told:
        await asyncio.wait_for(answered(server), 60.0)
    assert "\n" not in str(told.value)
    assert len(server.asked) <= 4, "nothing is asked without an end"


def call(name: str | None = None, arguments: str = "", **more: Any) -> dict[str, Any]:
    return {"function": {"name": name, "arguments": arguments}, **more}


def said(*calls: dict[str, Any]) -> HostileServer:
    events = [piece("", tool_calls=[each]) for each in calls]
    return HostileServer(answer=STREAM + sse(*events, piece("", "stop"), "[DONE]"))


@pytest.mark.parametrize(
    "server",
    [
        said(*(call("f", "{}", id=str(n)) for n in range(1000))),
        said(*(call("f", "{}", index=n) for n in range(1000))),
        said(*(call("f", "{}") for _ in range(1000))),
        said(*(call("f", "1") for _ in range(1000))),
    ],
    ids=["ids", "indices", "names", "names of one"],
)
async def test_calls_without_end_are_left(server: HostileServer) -> None:
    with pytest.raises(CloudFailed, match="calls tools without an end"):
        await answered(server)


async def test_a_key_that_comes_twice_counts_once() -> None:
    twice = b'data: {"choices": [{"delta": {"content": "a", "content": "b"}}]}\n\n'
    server = HostileServer(answer=STREAM + twice + sse(piece("", "stop"), "[DONE]"))
    first, finish = await answered(server)
    assert isinstance(first, Delta) and first.text == "b" and isinstance(finish, Finish)


async def test_likelihoods_that_cannot_be_are_brought_within_bounds() -> None:
    token = {"logprob": 1e300, "top_logprobs": [{"logprob": 1e308}, {"logprob": -1e308}]}
    event = {"choices": [{"delta": {"content": "a"}, "logprobs": {"content": [token]}}]}
    server = HostileServer(answer=STREAM + sse(event, piece("", "stop"), "[DONE]"))
    first, _ = await answered(server)
    assert isinstance(first, Delta)
    assert first.confidence == (Confidence(0.0, 0.0, 1e4),)


async def test_pieces_of_a_long_call_are_joined_in_time_linear_in_them() -> None:
    def seconds(count: int) -> float:
        events = sse(*[piece("", tool_calls=[call(None, "x", index=0)])] * count)
        server = HostileServer(answer=STREAM + events + sse(piece("", "stop"), "[DONE]"))
        began_s = time.process_time()
        asyncio.run(answered(server, LONG))
        return time.process_time() - began_s

    few, many = await asyncio.to_thread(lambda: (seconds(2_000), seconds(8_000)))
    assert many / few < 4**1.3, "of four times as many pieces"


LONG = Request(
    messages=CHAT.messages, sampling=msgspec.structs.replace(CHAT.sampling, max_tokens=1000)
)


async def test_the_claimed_use_is_no_more_than_was_asked() -> None:
    usage = json.dumps({"choices": [], "usage": {"completion_tokens": 10**9}})
    server = HostileServer(answer=STREAM + sse(piece("a", "stop"), usage, "[DONE]"))
    *_, finish = await answered(server)
    assert isinstance(finish, Finish) and finish.usage.completion_tokens == 18
