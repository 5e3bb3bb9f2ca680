"""A cloud that says whatever a test likes, over the link's own protocol."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field

import msgspec
import zmq

from offload.link import message_bodies, wire
from offload.link.message_bodies import AnyBody, Kind
from offload.link.socket_pump import Pump
from offload.link.wire import Envelope
from offload.messages import Delta
from tests.offload.scripted import CARD

READY = message_bodies.Ready(
    version=wire.VERSION,
    cards=(CARD,),
    instance="liar",
    window=64,
    max_message_bytes=wire.MAX_MESSAGE_BYTES,
    max_streams=64,
    clock_s=1.0,
)


def raw(kind: Kind, body: object, about: str = "") -> bytes:
    """Return a message whose body is any value at all."""
    named = about.encode()
    head = struct.pack(">BBH", wire.VERSION, kind, len(named)) + named
    return head + msgspec.msgpack.encode(body)


def pieces(deltas: Sequence[Delta], first: int = 0) -> AnyBody:
    return message_bodies.Deltas(first, tuple(map(wire.pack_delta, deltas)))


@dataclass
class LyingCloud:
    """Answers HELLO with `ready`, PING with `pong`, a request with what `answer` makes of its id.

    A bytes is sent as it stands, None is silence.
    """

    ready: AnyBody | bytes = READY
    answer: Callable[[str], Iterable[bytes]] = lambda _: ()
    pong: bytes | None = None
    heard: list[Envelope] = field(default_factory=list)
    endpoint: str = ""

    @contextlib.asynccontextmanager
    async def listening(self, endpoint: str = "tcp://127.0.0.1:*") -> AsyncIterator[LyingCloud]:
        """Listen while the block lasts."""
        router: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.ROUTER)
        router.bind(endpoint)
        self.endpoint = router.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\0")
        self._pump = Pump(router, self._hear)
        try:
            yield self
        finally:
            self._pump.close()

    def _hear(self, frames: list[zmq.Frame]) -> None:
        who, message = frames[0].bytes, wire.open_envelope(frames[-1].bytes)
        self.heard.append(message)
        for each in self._said(message):
            with contextlib.suppress(zmq.ZMQError):  # it hung up, as it may
                self._pump.send([who, each])

    def _said(self, message: Envelope) -> Iterable[bytes]:
        if message.kind is Kind.HELLO:
            return [self.ready if isinstance(self.ready, bytes) else wire.encode(self.ready)]
        if message.kind is Kind.PING:
            ping = wire.open_body(message)
            assert isinstance(ping, message_bodies.Ping)
            pong = message_bodies.Pong(ping.sent_s, 1.0, message_bodies.Load(), ping.padding)
            return [wire.encode(pong) if self.pong is None else self.pong]
        return self.answer(message.id) if message.kind is Kind.REQUEST else ()
