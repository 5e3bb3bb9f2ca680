"""Whatever a client sends, it is answered or told which mistake is its own: never a 5xx."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.request_schema import ChatBody, CompletionBody, EmbeddingBody
from tests.offload.scripted import ScriptedEngine
from tests.serve.faces import ASK, CHAT, CONTINUE, TEXT, error_of, near

JSON = {"content-type": "application/json"}
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=True)
    | st.text(max_size=5)
    | st.sampled_from(["user", "text", "json_schema", "auto", "scripted", -1, 0, 1, 2**63]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "role", "content", "text", "schema"]), inner)
    ),
    max_leaves=6,
)
BODIES = (ChatBody, CompletionBody, EmbeddingBody)
FIELDS = st.sampled_from([name for body in BODIES for name in body.__struct_fields__] + ["odd"])
PATHS = {CHAT: ASK, TEXT: CONTINUE, "/v1/embeddings": {"model": "scripted", "input": "a"}}


def post(path: str, content: bytes, headers: dict[str, str]) -> httpx.Response:
    async def ask() -> httpx.Response:
        async with near(ScriptedEngine(["ok"])) as client:
            return await client.post(path, content=content, headers=headers)

    return asyncio.run(ask())


def check(response: httpx.Response) -> None:
    assert response.status_code < 500, response.text
    if response.status_code != 200:
        assert error_of(response)["type"] == "invalid_request_error"


@settings(max_examples=60)
@given(st.sampled_from(list(PATHS)), st.binary(max_size=200))
def test_any_bytes(path: str, content: bytes) -> None:
    response = post(path, content, JSON)
    check(response)
    assert response.status_code == 400


@settings(max_examples=200)
@given(st.sampled_from(list(PATHS)), st.dictionaries(FIELDS, VALUES, max_size=4))
def test_any_value_in_any_field(path: str, changes: dict[str, Any]) -> None:
    body = PATHS[path] | changes
    check(post(path, json.dumps(body).encode(), JSON))


@settings(max_examples=60)
@given(
    st.text(max_size=20).filter(str.isascii).filter(str.isprintable),
    st.sampled_from(["content-type", "host", "authorization", "content-length", "x-request-id"]),
)
def test_any_header(value: str, name: str) -> None:
    check(post(CHAT, json.dumps(ASK).encode(), JSON | {name: value}))


def test_bombs() -> None:
    deep = b'{"model":"scripted","messages":[],"metadata":' + b"[" * 200_000
    wide = json.dumps(ASK | {"messages": [{"role": "x"}] * 50_000}).encode()
    for bomb in (deep, wide, b"[" * 1_000_000, b"9" * 1_000_000, b'"' + b"\\u0000" * 100_000):
        response = post(CHAT, bomb, JSON)
        check(response)
        assert response.status_code == 400


def test_half_a_character_is_refused_and_a_zero_byte_is_text() -> None:
    lone = json.dumps(ASK).replace("count", "\\ud800").encode()
    zero = json.dumps(ASK).replace("count", "\\u0000a").encode()
    assert post(CHAT, lone, JSON).status_code == 400
    assert post(CHAT, zero, JSON).status_code == 200
