"""Hostile bodies and connections, sent to a server for OpenAI clients."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from tests.attack.started import MOST_ANSWER_S, MOST_WAIT_S, Report
from tests.hostile import hostile

NUM_SILENT = 600
_NUM_GROWN = 2  # texts of each expression of the detectors
_GROWN_CHARS = 250  # as many as the small embedded model reads; more is refused by its length


@dataclass(frozen=True)
class Asked:
    """A request of an attack; MODEL in its body stands for the model's name."""

    path: str
    body: bytes
    method: str = "POST"
    kind: str = "application/json"


def chat(text: str, **more: Any) -> bytes:
    """Return the body of a chat with one question."""
    turns = [{"role": "user", "content": text}]
    return json.dumps({"model": "MODEL", "max_tokens": 4, "messages": turns, **more}).encode()


def held_to(schema: dict[str, Any]) -> bytes:
    """Return a chat whose answer must follow a schema."""
    named = {"name": "x", "schema": schema}
    return chat("hi", response_format={"type": "json_schema", "json_schema": named})


def nested(depth: int) -> dict[str, Any]:
    """Return a schema of so many objects within one another."""
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return schema


# What is sent, by what it tries; each is answered or refused, and hurts nobody else.
BODIES: dict[str, bytes] = {
    "runs of words and hyphens": chat("Aa-" * 1000),
    "a long e-mail address": chat("a." * 20_000 + "@"),
    "digits behind a placeholder": chat("EMAIL_" + "9" * 5000),
    "rising runs of backticks": chat(" ".join("`" * n for n in range(300))),
    "terminal escapes": chat("\x1b]52;c;aGk=\x07\x1b[2J"),
    "marks of direction and full width": chat("\u202e\ufeff\uff33\uff25\uff23\u200b" * 500),
    "megabytes of words": chat("hello world " * 300_000),
    "megabytes of blanks": chat("x" + " " * 3_500_000),
    "many messages": chat("hi", messages=[{"role": "user", "content": "hi"}] * 4000),
    "too many messages": chat("hi", messages=[{"role": "user", "content": "hi"}] * 50_000),
    "empty lists": b'{"model":"MODEL","messages":[],"metadata":[' + b"[]," * 1_000_000 + b"1]}",
    "deep JSON": b"[" * 1_000_000,
    "a deep schema": held_to(nested(300)),
    "a schema of many values": held_to({"enum": [f"value {n}" for n in range(100_000)]}),
    "a schema with a hostile pattern": held_to({"type": "string", "pattern": "(a*)*(a*)*b$"}),
    "a schema that asks for millions": held_to({"type": "string", "minLength": 10**7}),
    "letters that are no UTF-8": b'{"model": "MODEL", "messages": "\xff\xfe"}',
    "half a surrogate": b'{"model": "MODEL", "messages": [{"role": "user", "content": "\\ud800"}]}',
    "arguments that are no JSON": chat(
        "hi",
        messages=[
            {
                "role": "assistant",
                "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "[" * 100_000}}],
            },
            {"role": "user", "content": "hi"},
        ],
    ),
}


def grown_texts() -> dict[str, bytes]:
    """Return texts that would run each detector's expressions away, short enough to be read."""
    from offload.egress.privacy import contacts, identifiers, postal, secrets

    sources = [
        source
        for module in (contacts, identifiers, postal, secrets)
        for each in vars(module).values()
        if isinstance(source := getattr(each, "source", getattr(each, "pattern", None)), str)
    ]
    texts = [
        one.grown(_GROWN_CHARS) for each in sources for one in hostile(each, 0, count=_NUM_GROWN)
    ]
    return {f"grown from an expression, {n}": chat(text) for n, text in enumerate(texts)}


async def send_bodies(url: str, model: str, bodies: dict[str, bytes], report: Report) -> None:
    """Send each body as a chat's."""
    asked = {name: Asked("/v1/chat/completions", body) for name, body in bodies.items()}
    await send_each(url, model, asked, report)


async def send_each(url: str, model: str, asked: Mapping[str, Asked], report: Report) -> None:
    """Send each request; it must be answered or refused, and `/health` answer quickly meanwhile."""
    async with httpx.AsyncClient(base_url=url, timeout=MOST_ANSWER_S) as client:
        while (await client.get("/ready")).status_code != 200:
            await asyncio.sleep(0.1)
        for name, each in asked.items():
            if not report.wants(name):
                continue
            try:
                status, worst_s = await _hurt(client, each, model.encode())
            except httpx.HTTPError as error:
                report.note(name, False, type(error).__name__)
                continue
            told = f"{status}, /health within {worst_s:.2f} s"
            report.note(name, status < 500 and worst_s <= MOST_WAIT_S, told)


async def _hurt(client: httpx.AsyncClient, asked: Asked, model: bytes) -> tuple[int, float]:
    """Send a request; return its status and the longest wait for /health meanwhile."""
    body = asked.body.replace(b"MODEL", model)
    asking = asyncio.ensure_future(
        client.request(asked.method, asked.path, content=body, headers={"content-type": asked.kind})
    )
    worst_s = 0.0
    while True:
        began_s = time.monotonic()
        (await client.get("/health")).raise_for_status()
        worst_s = max(worst_s, time.monotonic() - began_s)
        if asking.done():
            return (await asking).status_code, worst_s
        await asyncio.wait([asking], timeout=0.1)


@contextmanager
def connections(url: str, count: int, first_bytes: bytes = b"") -> Iterator[None]:
    """Hold so many connections, each of which said the same and then nothing."""
    where = httpx.URL(url)
    with ExitStack() as stack:
        for _ in range(count):
            line = stack.enter_context(socket.create_connection((where.host, where.port or 0)))
            if first_bytes:
                line.sendall(first_bytes)
        yield


def silence(url: str, path: str, report: Report) -> None:
    """Hold many connections that say nothing, or half a head; a client must still be answered."""
    for told, said in (("silent", b""), ("half-said", b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nX")):
        name = f"{NUM_SILENT} {told} connections"
        if not report.wants(name):
            continue
        try:
            with connections(url, NUM_SILENT, said):
                httpx.get(url + path, timeout=MOST_WAIT_S).raise_for_status()
            report.note(name, True)
        except httpx.HTTPError as error:
            report.note(name, False, type(error).__name__)
