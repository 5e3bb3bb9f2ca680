"""A head that does not come is not waited for, and an answer that takes its time is not cut."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import httpx
import pytest

from backbone.http_connections import Connections, protocol_for
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


class Line:
    """As much of a connection as Connections looks at."""

    def __init__(self, address: str, *, is_idle: bool = True) -> None:
        self.address, self.is_idle, self.has_parted = address, is_idle, False

    def part(self) -> None:
        self.has_parted = True


def test_a_newcomer_takes_the_place_of_who_has_been_idle_longest() -> None:
    held: Any = Connections(4)
    old = [Line(f"10.0.0.{i}") for i in range(4)]
    assert all(held.add(line) for line in old)
    held.touch(old[0])
    assert held.add(Line("10.0.0.9")) and len(held) == 4
    assert [line.has_parted for line in old] == [False, True, False, False]


def test_one_address_holds_half_of_all_at_most() -> None:
    held: Any = Connections(8)
    crowd = [Line("10.0.0.1") for _ in range(20)]
    assert all(held.add(line) for line in crowd)
    assert len(held) == 4 and sum(line.has_parted for line in crowd) == 16
    assert all(held.add(Line(f"10.0.1.{i}")) for i in range(4)) and len(held) == 8
    assert sum(line.has_parted for line in crowd) == 16, "no other was shut out"


def test_who_is_being_answered_is_never_parted_with() -> None:
    held: Any = Connections(2)
    busy = [Line(f"10.0.0.{i}", is_idle=False) for i in range(2)]
    assert all(held.add(line) for line in busy)
    assert not held.add(Line("10.0.0.9")) and len(held) == 2
    held.remove(busy[0])
    held.remove(busy[0])
    assert held.add(Line("10.0.0.9")) and not busy[1].has_parted


async def test_silent_connections_by_the_hundred_keep_nobody_out() -> None:
    async with listening(ScriptedEngine(), ServeOptions(port=0)) as server:
        port = httpx.URL(server.url).port or 0
        server._server.config.http_protocol_class = protocol_for(60.0, Connections(16))
        lines = [await asyncio.open_connection("127.0.0.1", port) for _ in range(300)]
        async with httpx.AsyncClient(timeout=A_MINUTE_S) as client:
            assert (await client.get(f"{server.url}/health")).status_code == 200
        for _, writer in lines:
            writer.close()


def test_a_client_that_hangs_up_fills_no_log(caplog: pytest.LogCaptureFixture) -> None:
    protocol_for(1.0)
    asyncios = logging.getLogger("asyncio")
    asyncios.warning("socket.send() raised exception.")  # what it says of each piece
    asyncios.warning("something else")
    assert [record.message for record in caplog.records] == ["something else"]


def test_an_error_that_nobody_foresaw_is_logged_without_its_words(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    protocol_for(1.0)

    def logged() -> str:
        caplog.clear()
        try:
            raise ValueError("what a person wrote")
        except ValueError as error:
            logging.getLogger("uvicorn.error").error("Exception in app", exc_info=error)
        return caplog.text

    assert "ValueError at " in (told := logged()) and "person" not in told
    monkeypatch.setenv("NEARFAR_TRACE", "1")
    assert "what a person wrote" in logged()
