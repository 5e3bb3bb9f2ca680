"""A head that does not come is not waited for, and an answer that takes its time is not cut."""

from __future__ import annotations

import asyncio

import httpx

from serve.options import ServeOptions
from tests.offload.scripted import ScriptedEngine
from tests.serve.faces import CONTINUE, TEXT, listening

HALF = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: "
WHOLE = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
SOON = ServeOptions(port=0, body_timeout_s=0.3)
A_MINUTE_S = 60.0  # far more than it takes


async def hung_up(port: int, *sent: bytes) -> bytes:
    """Return what the server says before it hangs up on a client that sends this and no more."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for part in sent:
            writer.write(part)
            await writer.drain()
        return await asyncio.wait_for(reader.read(), A_MINUTE_S)
    finally:
        writer.close()


async def test_whoever_sends_half_a_head_or_nothing_is_hung_up_on() -> None:
    async with listening(ScriptedEngine(), SOON) as server:
        port = httpx.URL(server.url).port
        assert port is not None
        slow = [hung_up(port, HALF) for _ in range(100)]
        async with httpx.AsyncClient() as client:
            waiting = asyncio.gather(*slow, hung_up(port))
            assert (await client.get(f"{server.url}/health")).status_code == 200
        assert set(await waiting) == {b""}


async def test_the_next_request_of_a_kept_connection_must_come_whole_too() -> None:
    async with listening(ScriptedEngine(), SOON) as server:
        said = await hung_up(httpx.URL(server.url).port or 0, WHOLE, HALF)
    assert said.count(b"HTTP/1.1 200") == 1 and b"HTTP/1.1 4" not in said


async def test_an_answer_may_take_longer_than_a_head() -> None:
    hold = asyncio.Event()
    engine = ScriptedEngine(hold=hold)
    async with listening(engine, SOON) as server, httpx.AsyncClient(timeout=A_MINUTE_S) as client:
        body = CONTINUE | {"stream": True}
        async with client.stream("POST", f"{server.url}{TEXT}", json=body) as answer:
            lines = answer.aiter_lines()
            first = await anext(lines)
            await hung_up(httpx.URL(server.url).port or 0)  # begun later, given up sooner
            hold.set()
            rest = [line async for line in lines if line]
        assert first.startswith("data: ") and rest[-1] == "data: [DONE]"
        assert (await client.get(f"{server.url}/health")).status_code == 200
