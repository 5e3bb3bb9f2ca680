"""Keys hide what the link says; who sits on the line can still take whole frames out of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from urllib.parse import urlsplit

import pytest

from offload.errors import CloudFailed
from offload.link.client import CloudLink
from offload.link.keys import DeviceList, KeyPair
from offload.link.running_requests import AnswerLimits
from tests.offload.links import answer, ask, serving, text_of
from tests.offload.scripted import ScriptedEngine

_GREETING_BYTES = 64  # of ZMTP 3, before its frames begin
_LONG_SIZE = 2  # the flag of a frame whose size is in eight bytes and not in one
_LARGE = "x" * 5000


@contextlib.asynccontextmanager
async def snipping(target: str, takes: Callable[[int], bool]) -> AsyncIterator[str]:
    """A proxy that takes out the target's ZMTP frames of sizes that `takes` likes."""
    there = urlsplit(target)

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)

    async def snip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(_GREETING_BYTES):  # each side waits for parts of the other's
            writer.write(await reader.readexactly(1))
        while True:
            flags = await reader.readexactly(1)
            size = await reader.readexactly(8 if flags[0] & _LONG_SIZE else 1)
            content = await reader.readexactly(int.from_bytes(size, "big"))
            if not takes(len(content)):
                writer.write(flags + size + content)

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        accepted.add(task)
        far_reader, far_writer = await asyncio.open_connection(there.hostname, there.port)
        ways = [
            asyncio.create_task(carry(reader, far_writer)),
            asyncio.create_task(snip(far_reader, writer)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            far_writer.transport.abort()
            writer.transport.abort()

    accepted: set[asyncio.Task[None]] = set()
    proxy = await asyncio.start_server(accept, "127.0.0.1", 0)
    async with proxy:
        yield f"tcp://127.0.0.1:{proxy.sockets[0].getsockname()[1]}"
    for task in accepted:
        task.cancel()
    await asyncio.gather(*accepted, return_exceptions=True)
    await asyncio.sleep(0)  # the transports that were given up close at the loop's next turn


@pytest.mark.parametrize(
    "pieces", [["one ", "two ", _LARGE], ["one ", _LARGE, "two "], [_LARGE, "one ", "two "]]
)
async def test_an_answer_with_a_piece_taken_out_is_never_taken_for_whole(pieces: list[str]) -> None:
    server_keys, device_keys = KeyPair.new(), KeyPair.new()
    devices = DeviceList()
    devices.add("laptop", device_keys.public)
    limits = AnswerLimits(batch_s=0)  # each piece in a message of its own
    async with (
        serving(ScriptedEngine(pieces), keys=server_keys, devices=devices, limits=limits) as server,
        snipping(server.endpoint, lambda size: size > len(_LARGE)) as endpoint,
    ):
        link = CloudLink(endpoint, server_key=server_keys.public, device_keys=device_keys)
        with pytest.raises(CloudFailed, match="damaged"):
            await answer(link, ask())
        await link.aclose()


async def test_the_proxy_of_these_tests_carries_what_it_does_not_take() -> None:
    async with (
        serving(ScriptedEngine(["one ", _LARGE])) as server,
        snipping(server.endpoint, lambda size: False) as endpoint,
    ):
        link = CloudLink(endpoint)
        assert text_of(await answer(link, ask())) == "one " + _LARGE
        await link.aclose()
