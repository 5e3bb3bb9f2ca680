from __future__ import annotations

import asyncio

import msgspec
import pytest
import zmq

from offload.errors import (
    CloudFailed,
    RequestError,
)
from offload.link import message_bodies, wire
from offload.link.client import CloudLink
from offload.link.sockets import MAX_FRAME_BYTES
from offload.messages import Delta
from tests.offload.links import (
    HELLO,
    answer,
    ask,
    linked,
    raw_device,
    receive,
    send,
    serving,
    text_of,
    until,
)
from tests.offload.scripted import CARD, ScriptedEngine


async def test_an_older_cloud_tells_a_newer_device_what_to_update() -> None:
    async with serving(ScriptedEngine()) as server:
        with raw_device(server.endpoint) as device:
            hello = {"oldest_version": 7, "newest_version": 9, "device": "x", "novelty": [1]}
            await send(device, b"\x07\x01\x00\x00" + msgspec.msgpack.encode(hello))
            refused = wire.open_body(wire.open_envelope(await receive(device)))
    assert isinstance(refused, message_bodies.HelloRefused)
    assert "7 to 9" in refused.message and "update the cloud" in refused.message


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (
            message_bodies.HelloRefused(code="version", message="update the device"),
            "update the device",
        ),
        (
            message_bodies.Ready(
                version=7,
                cards=(CARD,),
                instance="",
                window=1,
                max_message_bytes=1,
                max_streams=1,
                clock_s=0,
            ),
            "version 7",
        ),
    ],
)
async def test_a_device_says_why_a_cloud_of_another_age_will_not_do(
    body: message_bodies.AnyBody, says: str
) -> None:
    router: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.ROUTER)
    port = router.bind_to_random_port("tcp://127.0.0.1")
    link = CloudLink(f"tcp://127.0.0.1:{port}")
    task = asyncio.create_task(link.connect())
    await until(lambda: bool(router.poll(0)))
    who, _ = router.recv_multipart()
    router.send_multipart([who, wire.encode(body)])
    with pytest.raises(CloudFailed, match=says):
        await task
    await link.aclose()
    router.close(linger=0)


V = bytes((wire.VERSION,))


GARBAGE = [
    [b""],
    [b"", b"", b"", b""],
    [V] * 20,
    [V + b"\x03\x00\x02id", b"\x80"],
    [V + b"\x03\x00\x02id\xc1"],
    [V + b"\x03\x00\x02id\xdd\xff\xff\xff\xff"],
    [V + b"\x03\x00\x02id" + b"\x91" * 100_000],
    [V + b"\x63\x00\x02id\x90"],
    [V + b"\x06\x00\x02\xff\xfe\x90"],
    [V + b"\x06\x03\xe8" + b"x" * 1000 + b"\x90"],
    [V + b"\x06\x00\x09id\x90"],
    [V + b"\x01\x00\x00\x80"],
    [b"\x09\x07\x00\x00\x91\x00"],
    [V + b"\x02\x00\x00\x80"],
]


@pytest.mark.parametrize("after_hello", [False, True])
async def test_garbage_harms_nobody(after_hello: bool) -> None:
    hold = asyncio.Event()
    engine = ScriptedEngine(hold=hold)
    async with serving(engine) as server:
        link = CloudLink(server.endpoint)
        task = asyncio.create_task(answer(link, ask()))
        await engine.until(lambda: len(engine.running) == 1)
        with raw_device(server.endpoint) as device:
            if after_hello:
                await send(device, wire.encode(HELLO))
                await receive(device)
            for frames in GARBAGE:
                await send(device, *frames)
            await send(device, wire.encode(HELLO))
            while wire.open_envelope(await receive(device)).kind is not message_bodies.Kind.READY:
                pass
        assert server.num_bad_messages >= len(GARBAGE) // 2
        hold.set()
        assert text_of(await task) == "one two three"
        await link.aclose()


async def test_a_message_too_large_breaks_only_its_own_connection() -> None:
    async with serving(ScriptedEngine()) as server:
        link = CloudLink(server.endpoint)
        await link.connect()
        with raw_device(server.endpoint) as device:
            hello = wire.encode(HELLO)
            await send(device, bytes(MAX_FRAME_BYTES + 1))
            await send(device, hello)
            assert wire.open_envelope(await receive(device)).kind is message_bodies.Kind.READY
        assert text_of(await answer(link, ask())) == "one two three"
        with pytest.raises(RequestError, match="shorten it"):
            await answer(link, ask("x" * (wire.MAX_MESSAGE_BYTES + 1)))
        await link.aclose()


async def test_the_largest_message_crosses_with_keys_too() -> None:
    request = ask("x" * (wire.MAX_MESSAGE_BYTES - 1000))
    body = wire.encode(request, request.id)
    request = ask(request.prompt + "x" * (wire.MAX_MESSAGE_BYTES - len(body)), id=request.id)
    engine = ScriptedEngine()
    async with linked(engine) as (_, link):
        assert text_of(await answer(link, request)) == "one two three"
    assert engine.requests == [request]


async def test_a_text_that_is_not_unicode_is_a_bad_request() -> None:
    async with linked(ScriptedEngine()) as (_, link):
        with pytest.raises(RequestError, match="cannot be sent"):
            await answer(link, ask("\ud800"))


@pytest.mark.parametrize("said", ["\ud800", Delta(token_ids=(2**70,))])
async def test_an_engine_that_says_what_cannot_be_sent_fails_its_answer(
    said: str | Delta,
) -> None:
    async with linked(ScriptedEngine(["one", said, "two"])) as (server, link):
        with pytest.raises(CloudFailed, match="cannot be heard"):
            await answer(link, ask())
        await until(lambda: server.num_in_flight == 0)
