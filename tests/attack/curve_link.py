"""The attack on the link: handshakes, garbage, and what one device says of another's answers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import zmq
import zmq.asyncio

from offload.errors import KeyRefused, LinkError
from offload.link import message_bodies, wire
from offload.link.client import CloudLink
from offload.link.keys import DeviceList, KeyPair
from offload.messages import Delta, Finish, Request, Sampling
from tests.attack.started import MOST_ANSWER_S, MOST_WAIT_S, Report

NUM_HANDSHAKES = 400
_GREETING = b"\xff\0\0\0\0\0\0\0\1\x7f\3\1CURVE" + b"\0" * 15 + b"\0" * 32  # of ZMTP 3.1, whole
_RECORDED_BYTES = 64 + 202 + 259  # a greeting, a HELLO and an INITIATE at least
_WELCOME_BYTES = 2 + 168  # the frame that follows a client's HELLO; a MESSAGE comes only later
_MEDDLING = (
    message_bodies.Cancel(),
    message_bodies.Resume(0, 2**31),
    message_bodies.Credit(2**31),
)
_HELLO = message_bodies.Hello(
    oldest_version=wire.OLDEST_VERSION, newest_version=wire.VERSION, session="s"
)


async def attack_link(endpoint: str, server_key: str, keys: Path, report: Report) -> None:
    """Attack a cloud at this endpoint; `keys` is its folder of keys, to let devices in and out."""
    cloud = _Cloud(endpoint, server_key, DeviceList(keys / "devices.json"))
    async with cloud.device("bystander") as bystander:
        for name, attempt in _TRIALS.items():
            if not report.wants(name):
                continue
            told = await attempt(cloud)
            took_s = await _answered(bystander)
            told = told or ("" if took_s <= MOST_WAIT_S else f"others waited {took_s:.1f} s")
            report.note(f"link: {name}", not told, told)


@dataclass
class _Cloud:
    """The cloud under attack, and its list of devices."""

    endpoint: str
    server_key: str
    devices: DeviceList
    _made: list[str] = field(default_factory=list)

    @property
    def address(self) -> tuple[str, int]:
        """The host and port."""
        there = urlsplit(self.endpoint)
        return there.hostname or "", there.port or 0

    def new_keys(self, name: str) -> KeyPair:
        """Make the keys of a device and let it in."""
        pair = KeyPair.new()
        self.devices.add(name, pair.public)
        return pair

    @contextlib.asynccontextmanager
    async def device(self, name: str, endpoint: str = "") -> AsyncIterator[CloudLink]:
        """Yield the link of a device that is let in."""
        pair = self.new_keys(name)
        at = endpoint or self.endpoint
        async with contextlib.aclosing(
            CloudLink(at, server_key=self.server_key, device_keys=pair)
        ) as link:
            yield link
        with contextlib.suppress(LinkError):
            self.devices.remove(name)

    @contextlib.contextmanager
    def raw(self, pair: KeyPair | None) -> Iterator[zmq.asyncio.Socket]:
        """Yield a socket that says whatever it likes, by a key; None is a key unknown."""
        pair = pair or KeyPair.new()
        socket = zmq.asyncio.Context.instance().socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.curve_serverkey = self.server_key.encode()
        socket.curve_publickey, socket.curve_secretkey = pair.public.encode(), pair.secret.encode()
        socket.connect(self.endpoint)
        try:
            yield socket
        finally:
            socket.close()


def _asked(text: str = "2 + 2?", *, max_tokens: int = 4) -> Request:
    return Request(prompt=text, sampling=Sampling(max_tokens=max_tokens))


async def _answered(link: CloudLink) -> float:
    """Ask once, and return the seconds until the end; Raises LinkError, TimeoutError."""
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    async with asyncio.timeout(MOST_ANSWER_S):
        async for _ in link.generate(_asked()):
            pass
    return loop.time() - began_s


async def _handshake_flood(cloud: _Cloud) -> str:
    """Hold handshakes that stop, each somewhere else, and others that say what is no command."""
    hello = b"\x04\xc8\x05HELLO\1\0" + os.urandom(193)
    said = (b"", _GREETING[:10], _GREETING, _GREETING + hello, _GREETING + hello[:50],
            _GREETING + b"\x06" + struct.pack(">Q", 2**62), _GREETING + b"\x04\x0a\x05READY0000",
            b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 64, _GREETING[:10] * 2000)  # fmt: skip
    with contextlib.ExitStack() as stack:
        for n in range(NUM_HANDSHAKES):
            line = stack.enter_context(socket.create_connection(cloud.address))
            with contextlib.suppress(ConnectionError):
                line.sendall(said[n % len(said)])
        async with cloud.device("newcomer") as link:  # while all of them stand
            took_s = await _answered(link)
    return "" if took_s <= MOST_WAIT_S else f"a newcomer waited {took_s:.1f} s"


async def _unknown_keys(cloud: _Cloud) -> str:
    with contextlib.ExitStack() as stack:
        lines = [stack.enter_context(cloud.raw(None)) for _ in range(50)]
        for line in lines:
            with contextlib.suppress(zmq.Again):  # one that was refused already takes nothing
                await line.send(wire.encode(_HELLO), zmq.NOBLOCK)
        await asyncio.sleep(0.5)
        heard = [line for line in lines if await line.poll(0)]
    return f"{len(heard)} unknown keys were answered" if heard else ""


async def _say(line: zmq.asyncio.Socket, body: message_bodies.AnyBody, about: str = "") -> None:
    await line.send(wire.encode(body, about))


async def _heard(line: zmq.asyncio.Socket, kind: type, timeout_s: float = MOST_WAIT_S) -> object:
    """Return the next body of a kind. Raises TimeoutError."""
    async with asyncio.timeout(timeout_s):
        while True:
            body = wire.open_body(wire.open_envelope(await line.recv()))
            if isinstance(body, kind):
                return body


def _garbage() -> Iterator[list[bytes]]:
    good = wire.encode(_asked(), "id")
    yield from ([os.urandom(n)] for n in (0, 1, 3, 4, 50, 5000))
    yield from ([good[:n]] for n in range(0, len(good), 7))
    yield [good, good]  # two frames
    yield [b"x"] * 500
    for kind in range(1, 16):
        head = struct.pack(">BBH", wire.VERSION, kind, 2) + b"id"
        yield [head]
        yield [head + b"\x91" * 60_000]  # lists within lists
        yield [head + b"\xdd\xff\xff\xff\xff"]  # a list of 4 billion
        yield [head + b"\xc6\xff\xff\xff\xff"]  # bytes of 4 billion
        yield [head + b"\x80" * 50_000]
    yield [struct.pack(">BBH", wire.VERSION, 3, 65_535) + b"id"]
    yield [b"\0" * wire.MAX_MESSAGE_BYTES]


async def _garbage_of_a_device(cloud: _Cloud) -> str:
    pair = cloud.new_keys("garbler")
    with cloud.raw(pair) as line:
        await _say(line, _HELLO)
        await _heard(line, message_bodies.Ready)
        for frames in _garbage():
            await line.send_multipart(frames)
        await _say(line, message_bodies.Ping(7.0, b""))
        await _heard(line, message_bodies.Pong, MOST_ANSWER_S)
    with cloud.raw(pair) as line:  # libzmq hangs up on what is larger than any message
        await line.send(b"\0" * (wire.MAX_MESSAGE_BYTES + 2000))
        await _say(line, _HELLO)
    cloud.devices.remove("garbler")
    return ""


async def _others_answers(cloud: _Cloud) -> str:
    """Cancel, resume and allow another device's answer; it must come whole, and to it alone."""
    asked = _asked("Count: 1 2 3", max_tokens=64)
    pieces: list[Delta | Finish] = []
    pair = cloud.new_keys("meddler")
    async with cloud.device("victim") as link:
        with cloud.raw(pair) as line:
            await _say(line, _HELLO)
            await _heard(line, message_bodies.Ready)
            async for item in link.generate(asked):
                pieces.append(item)
                for body in _MEDDLING:
                    await _say(line, body, asked.id)
            await _say(line, message_bodies.Ping(7.0, b""))
            while not isinstance(body := await _next(line), message_bodies.Pong):
                if not isinstance(body, message_bodies.Failure):
                    return f"the meddler was told {type(body).__name__} of the victim's answer"
    cloud.devices.remove("meddler")
    ended = isinstance(pieces[-1], Finish) and pieces[-1].reason != "cancelled"
    return "" if ended else f"the victim's answer ended as {pieces[-1]}"


async def _next(line: zmq.asyncio.Socket) -> message_bodies.AnyBody:
    async with asyncio.timeout(MOST_ANSWER_S):
        return wire.open_body(wire.open_envelope(await line.recv()))


async def _revoked(cloud: _Cloud) -> str:
    """Shut a device out in the middle of an answer; it must hear no more, nor come back."""
    pair = cloud.new_keys("lost laptop")
    link = CloudLink(cloud.endpoint, server_key=cloud.server_key, device_keys=pair, patience_s=1.0)
    async with contextlib.aclosing(link):
        await link.connect()
        cloud.devices.remove("lost laptop")
        for _ in range(2):  # by the old connection, and by a new one
            try:
                async with asyncio.timeout(MOST_ANSWER_S):
                    async for _ in link.generate(_asked()):
                        pass
            except KeyRefused:
                continue
            except LinkError as error:
                told = str(error)
                if "key" not in told and "invite" not in told:
                    return f"it was told {told}"
                continue
            return "it was answered"
    return ""


async def _replayed(cloud: _Cloud) -> str:
    """Record all that a device says over a proxy, and say it again, whole and in pieces."""
    async with (
        _recorder(cloud.address) as (endpoint, said),
        cloud.device("recorded", endpoint) as link,
    ):
        await _answered(link)
        if len(said[0]) < _RECORDED_BYTES:
            return f"only {len(said[0])} bytes were recorded: this attempt itself is broken"
        for again in (said[0], said[0][:64] + said[0][64:] * 2):
            heard = await _replay(cloud.address, bytes(again))
            if heard > len(_GREETING) + _WELCOME_BYTES:
                return f"a replay heard {heard} bytes, more than any handshake's beginning"
    return ""


async def _replay(address: tuple[str, int], said: bytes) -> int:
    reader, writer = await asyncio.open_connection(*address)
    heard = 0
    writer.write(said)
    with contextlib.suppress(ConnectionError, TimeoutError):
        async with asyncio.timeout(2.0):
            while data := await reader.read(65_536):
                heard += len(data)
    writer.transport.abort()
    return heard


@contextlib.asynccontextmanager
async def _recorder(address: tuple[str, int]) -> AsyncIterator[tuple[str, Sequence[bytearray]]]:
    """Yield the endpoint of a proxy, and what each connection's client has said by now."""
    said: list[bytearray] = []
    tasks: set[asyncio.Task[None]] = set()

    async def pump(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, keep: Callable[[bytes], object]
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65_536):
                keep(data)
                writer.write(data)
        writer.transport.abort()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(*address)
        said.append(bytearray())
        for way in (pump(reader, far_writer, said[-1].extend), pump(far_reader, writer, len)):
            task = asyncio.create_task(way)
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as server:
        yield f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}", said
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


_TRIALS = {
    f"{NUM_HANDSHAKES} handshakes that stop or lie": _handshake_flood,
    "keys that are not known": _unknown_keys,
    "garbage and more than a message of a known device": _garbage_of_a_device,
    "RESUME, CREDIT and CANCEL of another's answer": _others_answers,
    "a key that is revoked": _revoked,
    "a recorded exchange, said again": _replayed,
}
