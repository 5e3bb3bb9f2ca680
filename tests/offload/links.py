"""Servers and devices on real sockets, for the tests of the link."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator

import zmq

from offload.engine import Engine
from offload.link import message_bodies, wire
from offload.link.client import CloudLink
from offload.link.keys import DeviceList, KeyPair
from offload.link.running_requests import AnswerLimits
from offload.link.server import LinkServer
from offload.messages import Delta, Finish, Request
from tests.waiting import DEADLINE_S, until

HELLO = message_bodies.Hello(oldest_version=wire.VERSION, newest_version=wire.VERSION, session="s")


@contextlib.asynccontextmanager
async def serving(engine: Engine, **options: object) -> AsyncIterator[LinkServer]:
    server = LinkServer(engine, **options)  # type: ignore[arg-type]
    await server.start()
    try:
        yield server
    finally:
        await asyncio.wait_for(server.aclose(), DEADLINE_S)


@contextlib.asynccontextmanager
async def linked(
    engine: Engine, *, limits: AnswerLimits | None = None, **options: object
) -> AsyncIterator[tuple[LinkServer, CloudLink]]:
    """A server and a device that know each other's keys."""
    server_keys, device_keys = KeyPair.new(), KeyPair.new()
    devices = DeviceList()
    devices.add("laptop", device_keys.public)
    async with serving(engine, keys=server_keys, devices=devices, limits=limits) as server:
        link = CloudLink(
            server.endpoint,
            server_key=server_keys.public,
            device_keys=device_keys,
            **options,  # type: ignore[arg-type]
        )
        try:
            yield server, link
        finally:
            await link.aclose()


def ask(text: str = "hello", **options: object) -> Request:
    return Request(prompt=text, **options)  # type: ignore[arg-type]


async def answer(link: Engine, request: Request) -> list[Delta | Finish]:
    return [item async for item in link.generate(request)]


def text_of(items: list[Delta | Finish]) -> str:
    return "".join(item.text for item in items if isinstance(item, Delta))


@contextlib.contextmanager
def nowhere() -> Iterator[str]:
    """An endpoint that takes no connection, and that nobody else can take meanwhile."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"tcp://127.0.0.1:{held.getsockname()[1]}"


@contextlib.contextmanager
def raw_device(endpoint: str) -> Iterator[zmq.Socket[bytes]]:
    """A socket that says whatever it likes."""
    device = zmq.Context.instance().socket(zmq.DEALER)
    device.setsockopt(zmq.LINGER, 0)
    device.connect(endpoint)
    try:
        yield device
    finally:
        device.close()


async def send(device: zmq.Socket[bytes], *frames: bytes) -> None:
    device.send_multipart(frames)


async def receive(device: zmq.Socket[bytes]) -> bytes:
    await until(lambda: bool(device.poll(0)))
    return device.recv_multipart()[-1]  # before it, a ROUTER puts who said it
