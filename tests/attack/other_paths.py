"""Hostile requests to every other path of a server: its types, depths, sizes, names and aborts."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import struct
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import psutil

from tests.attack.http_bodies import Asked, chat, nested, send_each
from tests.attack.started import MOST_ANSWER_S, MOST_WAIT_S, Report

_TURN = {"role": "user", "content": "hi"}
_DEEP = b"[" * 1_000_000
_EMPTY = b"[" + b"[]," * 1_000_000 + b"1]"
_FEW = {"options": {"num_predict": 4}, "stream": False}

# A body of each path around one text.
FORMS: dict[str, Callable[[str], dict[str, Any]]] = {
    "/v1/chat/completions": lambda text: json.loads(chat(text)),
    "/v1/responses": lambda text: {"model": "MODEL", "input": text, "max_output_tokens": 4},
    "/v1/completions": lambda text: {"model": "MODEL", "prompt": text, "max_tokens": 4},
    "/v1/embeddings": lambda text: {"model": "MODEL", "input": text},
    "/tokenize": lambda text: {"prompt": text, "return_token_strs": True},
    "/api/chat": lambda text: {"model": "MODEL", "messages": [{**_TURN, "content": text}], **_FEW},
    "/api/generate": lambda text: {"model": "MODEL", "prompt": text, **_FEW},
    "/api/embed": lambda text: {"model": "MODEL", "input": text},
    "/api/embeddings": lambda text: {"model": "MODEL", "prompt": text},
    "/api/show": lambda text: {"model": text},
    "/api/delete": lambda text: {"model": text},
    "/api/pull": lambda text: {"model": text, "stream": False},
}
_METHODS = {"/api/delete": "DELETE"}
_FIELDS = {"/v1/chat/completions": "messages", "/v1/responses": "input", "/v1/embeddings": "input",
           "/v1/completions": "prompt", "/tokenize": "prompt", "/api/chat": "messages",
           "/api/generate": "options", "/api/embed": "input", "/api/embeddings": "options",
           "/api/show": "model", "/api/delete": "model", "/api/pull": "model"}  # fmt: skip
_GETS = ("/v1/models", "/metrics", "/openapi.json", "/api/tags", "/api/ps", "/api/version")
_NAMES = ("../../etc/passwd", "/dev/zero", "\0", "x" * 1_000_000, "~root", "~", ".", "", "C:\\nul",
          "a/b/c/d/e", "http://127.0.0.1:1/x", "*", "\u202e", "-1", "aliases.json")  # fmt: skip
_HOSTS = ("evil.example", "127.0.0.1.evil.example", "127.0.0.1@evil.example", "0.0.0.0", "127.1",
          "localhost.", "2130706433", "[::ffff:7f00:1]", "127.0.0.1, evil.example", "")  # fmt: skip
_OF_SERVE = ("/v1/chat/completions", "/v1/completions", "/tokenize")
NUM_ABORTS = 60
NUM_AT_ONCE = 200


def paths_of(is_service: bool) -> list[str]:
    """Return the paths of FORMS that a server has: those of ollama's only in `nearfar up`."""
    return [path for path in FORMS if is_service or not path.startswith("/api/")]


def _bodies(path: str) -> Iterator[tuple[str, bytes]]:
    form, field = FORMS[path], _FIELDS[path]
    for told, text in (
        ("megabytes of words", "hello world " * 300_000),
        ("megabytes of blanks", "x" + " " * 3_500_000),
        ("words that fit", "Aa-" * 80),
        ("commands and marks of direction", "\x1b]52;c;aGk=\x07\u202e\0\ufeff" * 9),
    ):
        yield told, json.dumps(form(text)).encode()
    surrogate = json.dumps(form("SAID")).encode().replace(b'"SAID"', b'"\\ud800"')
    yield "half a surrogate", surrogate
    yield "letters that are no UTF-8", surrogate.replace(b"\\ud800", b"\xff\xfe")
    plain = {key: value for key, value in form("hi").items() if key != field}
    for told, value in (
        ("deep JSON", _DEEP), ("empty lists", _EMPTY), ("a number", b"1e999"), ("null", b"null"),
        ("a huge number", b"9" * 100_000), ("a truth", b"true"), ("an object", b'{"a":{}}'),
        ("many texts", json.dumps(["hi there"] * 100_000).encode()),
        ("many numbers", json.dumps([7] * 500_000).encode()),
        ("lists of lists", json.dumps([[[1]]] * 50_000).encode()),
    ):  # fmt: skip
        head = json.dumps({**plain, field: 0}).encode()
        yield (
            f"{told} as {field}",
            head.replace(b'"%b": 0' % field.encode(), b'"%b": %b' % (field.encode(), value)),
        )
    for told, body in (("nothing", b""), ("a list", b"[]"), ("null", b"null"), ("a NUL", b"\0")):
        yield f"{told} for a body", body


def _schemas() -> Iterator[tuple[str, str, bytes]]:
    for told, schema in (
        ("a deep schema", nested(300)),
        ("a schema of many values", {"enum": [f"value {n}" for n in range(100_000)]}),
        ("a hostile pattern", {"type": "string", "pattern": "(a*)*(a*)*b$"}),
        ("a schema that asks for millions", {"type": "string", "minLength": 10**7}),
    ):
        form = {"format": {"type": "json_schema", "name": "x", "schema": schema}}
        yield told, "/v1/responses", _with("/v1/responses", text=form)
        for path in ("/api/chat", "/api/generate"):
            yield told, path, _with(path, format=schema)


def _with(path: str, text_: str = "hi", **more: Any) -> bytes:
    return json.dumps({**FORMS[path](text_), **more}).encode()


def _own() -> Iterator[tuple[str, str, bytes]]:
    """Yield what only one path has: its name, the path, and the body."""
    yield from _schemas()
    path = "/v1/responses"
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "[" * 1000}
    yield "many calls", path, _with(path, input=[call] * 20_000)
    yield "many tools", path, _with(path, tools=[{"type": "function", "name": "f"}] * 20_000)
    yield "another's answer", path, _with(path, previous_response_id="resp_1")
    yield (
        "many parts",
        path,
        _with(path, input=[{"content": [{"type": "input_text", "text": "a"}] * 50_000}]),
    )
    path = "/v1/embeddings"
    yield "as many texts as may be", path, _with(path, input=["hi"] * 2048)
    yield "many long texts", path, _with(path, input=["hello " * 30] * 200)
    yield "too many texts", path, _with(path, input=["hi"] * 2049)
    yield "many dimensions", path, _with(path, dimensions=10**9)
    ids = json.dumps({"tokens": [5] * 1_000_000}).encode()
    yield "a million ids", "/detokenize", ids
    yield "ids that are none", "/detokenize", b'{"tokens": [-1, 4294967295, 1e3]}'
    path = "/api/chat"
    for told, options in (
        ("no end", {"num_predict": -1, "num_ctx": 2**70}), ("no number", {"temperature": "hot"}),
        ("infinite heat", {"temperature": 1e300}), ("a list", {"stop": [["a"]] * 1000}),
        ("many stops", {"stop": ["a"] * 100_000}), ("a truth", {"num_predict": True}),
    ):  # fmt: skip
        yield f"options: {told}", path, _with(path, options=options)
    for told, keep in (
        ("for ages", "999999999999h"), ("digits", "9" * 5000), ("parts", "1h" * 9999),
        ("a number", 1e300), ("below zero", -(10**18)),
    ):  # fmt: skip
        yield f"kept {told}", path, _with(path, keep_alive=keep)
    arguments: dict[str, Any] = {}
    for _ in range(600):
        arguments = {"a": arguments}
    called = {
        "role": "assistant",
        "tool_calls": [{"function": {"name": "f", "arguments": arguments}}],
    }
    yield "deep arguments", path, _with(path, messages=[called, _TURN])
    yield "many calls", path, _with(path, messages=[{**called, "tool_calls": [
        {"function": {"name": "f"}}] * 20_000}, _TURN])  # fmt: skip
    yield "pictures", path, _with(path, messages=[{**_TURN, "images": ["A" * 1_000_000]}])
    yield "a deep tool", path, _with(path, tools=[{"type": "function", "function": {
        "name": "f", "parameters": nested(200)}}])  # fmt: skip
    yield "a template", "/api/generate", _with("/api/generate", template="{{ 1 }}" * 1000)
    yield "no template", "/api/generate", _with("/api/generate", "hi " * 50, raw=True)
    for name in _NAMES:
        for path in ("/api/show", "/api/delete", "/api/pull", "/api/generate"):
            body = json.dumps({"model": name, "prompt": "hi", **_FEW}).encode()
            yield f"the name {name[:20]!r}", path, body


def requests_of(paths: list[str]) -> dict[str, Asked]:
    """Return every hostile request to these paths, by what it tries."""
    found = {
        f"{path}: {told}": Asked(path, body, _METHODS.get(path, "POST"))
        for path in paths
        for told, body in _bodies(path)
    }
    has_others = "/api/chat" in paths
    for told, path, body in _own():
        if has_others or not path.startswith("/api/"):
            found[f"{path}: {told}"] = Asked(path, body, _METHODS.get(path, "POST"))
    return found


@dataclass(frozen=True)
class Server:
    """A server under attack: where it is, its process, the model to ask, and what it has."""

    url: str
    pid: int
    model: str
    is_service: bool


async def attack_paths(server: Server, report: Report) -> None:
    """Send everything, and see that the server answers others meanwhile, and goes on."""
    paths = paths_of(server.is_service)
    # The service has the paths of `serve` by the same app: they are sent everything once.
    only = [path for path in paths if path not in _OF_SERVE] if server.is_service else paths
    await send_each(server.url, server.model, requests_of(only), report)
    trials = {
        "names that are none of this machine's": lambda: _by_other_names(server, paths),
        "many at once that only read": lambda: asyncio.run(_told(_all_at_once(server))),
        "clients that hang up": lambda: _aborts(server, paths),
        "growth with the text": lambda: asyncio.run(_growths(server, paths)),
    }
    await asyncio.to_thread(report.each, trials)


def _by_other_names(server: Server, paths: list[str]) -> str:
    where = httpx.URL(server.url)
    for host in _HOSTS:
        for path in (*paths, *_gets(server), "/detokenize", "/nearfar/generate"):
            method = "GET" if path in _GETS else _METHODS.get(path, "POST")
            with socket.create_connection((where.host, where.port or 0), MOST_WAIT_S) as line:
                head = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
                line.sendall(head.encode())
                got = re.match(rb"HTTP/1.1 (\d{3})", line.recv(4096))
            if got is None or got[1] not in (b"400", b"403"):
                return f"{path} as {host!r}: {got[1].decode() if got else 'nothing'}"
    return ""


def _gets(server: Server) -> list[str]:
    return [path for path in _GETS if server.is_service or not path.startswith("/api/")]


async def _told(attempt: Coroutine[None, None, str]) -> str:
    """Return what an attempt says, and the kind of an answer that never came."""
    try:
        return await attempt
    except httpx.HTTPError as error:
        return type(error).__name__


async def _all_at_once(server: Server) -> str:
    limits = httpx.Limits(max_connections=NUM_AT_ONCE)
    async with httpx.AsyncClient(base_url=server.url, timeout=MOST_ANSWER_S, limits=limits) as many:
        every = (*_gets(server), "/v1/models/" + "%2e%2e%2f" * 30)
        # As of bodies: what the service has by the app of `serve` was asked there.
        for path in (path for path in every if path.startswith("/api/") or not server.is_service):
            asking = [asyncio.ensure_future(many.get(path)) for _ in range(NUM_AT_ONCE)]
            began_s = time.monotonic()
            async with httpx.AsyncClient(base_url=server.url, timeout=MOST_ANSWER_S) as other:
                (await other.get("/health")).raise_for_status()
            waited_s = time.monotonic() - began_s
            statuses = {answer.status_code for answer in await asyncio.gather(*asking)}
            if waited_s > MOST_WAIT_S or not statuses <= {200, 404}:
                return f"{path}: {statuses}, others waited {waited_s:.1f} s"
    return ""


def _aborts(server: Server, paths: list[str]) -> str:
    """Hang up in the body and in the answer, with a reset; nothing may go on running for it."""
    where = httpx.URL(server.url)
    for path in paths:
        body = _with(path, "hi there", stream=True) if path.startswith("/api/") else _with(path)
        body = body.replace(b"MODEL", server.model.encode())
        head = (
            f"{_METHODS.get(path, 'POST')} {path} HTTP/1.1\r\nHost: {where.netloc.decode()}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode()
        for n in range(NUM_ABORTS // len(paths) + 1):
            with socket.create_connection((where.host, where.port or 0), MOST_WAIT_S) as line:
                line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                line.sendall(head + body[: len(body) // 2 if n % 2 else None])
    until_s = time.monotonic() + MOST_ANSWER_S
    while left := _running(server.url):
        if time.monotonic() > until_s:
            return f"{left:.0f} answers run for nobody"
        time.sleep(0.1)
    return ""


def _running(url: str) -> float:
    page = httpx.get(f"{url}/metrics", timeout=MOST_ANSWER_S).text
    found = re.findall(r"^nearfar:num_requests_(?:running|waiting) (\S+)$", page, re.MULTILINE)
    assert len(found) == 2, "the page of metrics tells both"
    return sum(map(float, found))


_SHORT, _LONG = 200_000, 800_000  # characters
_SMALL_S = 0.3  # of CPU: too little to tell how it grows
_MOST_GROWTH = 1.3  # exponent
_PARTS = ("Aa-", "a.", "\u202e", "{{", "1 ", "`` ", "\\", "<tool_call>", "\u4e00")


async def _growths(server: Server, paths: list[str]) -> str:
    async with httpx.AsyncClient(base_url=server.url, timeout=MOST_ANSWER_S) as client:
        for path in paths:
            for part in _PARTS:
                try:
                    long_s = await _cpu_s(server, client, path, part, _LONG)
                    if long_s < _SMALL_S:
                        continue
                    short_s = await _cpu_s(server, client, path, part, _SHORT)
                except httpx.HTTPError as error:
                    return f"{path} with {part!r}: {type(error).__name__}"
                if long_s > short_s * (_LONG / _SHORT) ** _MOST_GROWTH:
                    return f"{path} with {part!r}: {short_s:.2f} s, then {long_s:.2f} s of CPU"
    return ""


async def _cpu_s(
    server: Server, client: httpx.AsyncClient, path: str, part: str, length: int
) -> float:
    body = _with(path, part * (length // len(part))).replace(b"MODEL", server.model.encode())
    process = psutil.Process(server.pid)
    before = process.cpu_times()
    answer = await client.request(
        _METHODS.get(path, "POST"), path, content=body, headers={"content-type": "application/json"}
    )
    assert answer.status_code < 500, f"{path}: {answer.status_code}"
    return sum(process.cpu_times()[:4]) - sum(before[:4])
