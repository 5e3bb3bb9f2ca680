"""Those who ask an upstream through us are kept apart in its cache, where it has a word for it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import httpx
import pytest

from offload.asker import asked_by
from offload.errors import Unsupported
from offload.messages import Finish, Message, Request
from offload.upstream.client import Upstream

URL = "http://there:8000/v1"
CHAT = Request(messages=(Message(role="user", content="count"),))
TEXT = Request(prompt="one two")
DONE = {"choices": [{"delta": {"content": "x"}, "text": "x", "finish_reason": "stop"}]}


class FakeServer:
    """A server that says whose it is, keeps what it was asked, and refuses what it does not know.

    `forbidden` are paths whose bodies may have no cache_salt, as trtllm-serve's completions.
    """

    def __init__(self, owner: str, forbidden: tuple[str, ...] = ()) -> None:
        self.owner, self.forbidden = owner, forbidden
        self.salts: list[str | None] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return httpx.Response(200, json={"data": [{"id": "m", "owned_by": self.owner}]})
        body: dict[str, Any] = json.loads(request.content)
        path = request.url.path.removeprefix("/v1")
        if "cache_salt" in body and path in self.forbidden:
            return httpx.Response(400, json={"error": {"message": "extra field cache_salt"}})
        self.salts.append(body.get("cache_salt"))
        return httpx.Response(200, text=f"data: {json.dumps(DONE)}\n\ndata: [DONE]\n\n")


@asynccontextmanager
async def reached(server: FakeServer, *, for_tenants: bool = True) -> AsyncIterator[Upstream]:
    transport = httpx.MockTransport(server)
    async with aclosing(Upstream(URL, for_tenants=for_tenants, transport=transport)) as upstream:
        yield upstream


async def ask(upstream: Upstream, request: Request, who: str) -> None:
    with asked_by(who):
        items = [item async for item in upstream.generate(request)]
    assert isinstance(items[-1], Finish)


@pytest.mark.parametrize("owner", ["vllm", "sglang", "tensorrt_llm", "nearfar"])
async def test_each_asker_has_a_salt_of_their_own(owner: str) -> None:
    server = FakeServer(owner)
    async with reached(server) as upstream:
        for who in ("alice", "bob", "alice"):
            await ask(upstream, CHAT, who)
        assert not upstream.shares_caches
    first, second, third = server.salts
    assert first == third != second and first is not None and len(first) == 64
    assert "alice" not in first, "a name does not leave"


@pytest.mark.parametrize("owner", ["vllm", "sglang", "nearfar"])
async def test_raw_prompts_are_salted_too(owner: str) -> None:
    server = FakeServer(owner)
    async with reached(server) as upstream:
        await ask(upstream, TEXT, "alice")
    assert server.salts[0]


async def test_trtllm_is_sent_no_salt_with_a_raw_prompt_which_it_would_refuse() -> None:
    server = FakeServer("tensorrt_llm", forbidden=("/completions",))
    async with reached(server) as upstream:
        await ask(upstream, TEXT, "alice")
        await ask(upstream, CHAT, "alice")
        with pytest.raises(Unsupported, match="cache_salt cannot be asked of trtllm-serve"):
            await ask(upstream, Request(prompt="one", cache_salt="own"), "alice")
    assert server.salts[0] is None and server.salts[1]


async def test_ones_own_salt_stays_apart_within_ones_own() -> None:
    server = FakeServer("sglang")
    salted = Request(messages=CHAT.messages, cache_salt="own")
    async with reached(server) as upstream:
        for who, request in (("alice", CHAT), ("alice", salted), ("bob", salted)):
            await ask(upstream, request, who)
    assert len(set(server.salts)) == 3 and "own" not in server.salts


@pytest.mark.parametrize("owner", ["llamacpp", "me", "deepspeed-mii", "somebody"])
async def test_a_server_without_the_word_is_sent_none_and_is_known_to_share(owner: str) -> None:
    server = FakeServer(owner)
    async with reached(server) as upstream:
        await ask(upstream, CHAT, "alice")
        assert upstream.shares_caches
    assert server.salts == [None]


async def test_a_device_of_ones_own_says_no_more_than_it_was_told() -> None:
    server = FakeServer("vllm")
    async with reached(server, for_tenants=False) as upstream:
        await ask(upstream, CHAT, "alice")
        await ask(upstream, Request(prompt="one", cache_salt="own"), "alice")
    assert server.salts == [None, "own"]
