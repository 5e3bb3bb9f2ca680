"""Connections that say nothing are bounded, and keep no device out."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from offload.link.running_requests import AnswerLimits
from offload.messages import Delta
from tests.offload.links import DEADLINE_S, answer, ask, linked
from tests.offload.scripted import ScriptedEngine

MOST = 8


@pytest.mark.parametrize("first_bytes", [b"", b"\xff\0\0\0\0\0\0\0\1\x7f"])
async def test_of_silent_connections_only_the_newest_stay(first_bytes: bytes) -> None:
    limits = AnswerLimits(max_silent_connections=MOST)
    async with linked(ScriptedEngine(), limits=limits) as (server, link):
        before = await answer(link, ask())
        assert isinstance(before[0], Delta) and server.num_silent_connections == 0
        host, port = server.endpoint.removeprefix("tcp://").split(":")
        opened = []
        for _ in range(3 * MOST):
            opened.append(await asyncio.open_connection(host, int(port)))
            opened[-1][1].write(first_bytes)
        async with asyncio.timeout(DEADLINE_S):
            for reader, _ in opened[: 2 * MOST]:
                with contextlib.suppress(ConnectionError):
                    while await reader.read(4096):  # libzmq's own greeting, then its end
                        pass
        assert server.num_silent_connections <= MOST
        assert await answer(link, ask("again")), "a device that has spoken is not counted"
        for _, writer in opened:
            writer.close()
