"""The device's side of the link: a cloud's engine, used like one of our own."""

from __future__ import annotations

import asyncio
import contextlib
import platform
from collections.abc import AsyncIterator

import msgspec

from offload.errors import CloudUnreachable, LinkError, RequestError
from offload.link import wire
from offload.link.connection import Address, Connection
from offload.link.health import LinkHealth, Tempo
from offload.link.keys import KeyPair
from offload.link.streams import Reading
from offload.link.wire import Cancel, Envelope, Ready
from offload.messages import Delta, Finish, ModelCard, Privacy, Request

_DEADLINE_GRACE_S = 1.0  # for the cloud's own FINISH to arrive


class CloudLink:
    """An Engine on another machine; connects at the first use and again after each loss."""

    def __init__(
        self,
        endpoint: str,
        *,
        server_key: str | None = None,
        device_keys: KeyPair | None = None,
        device: str = "",
        connect_timeout_s: float = 3.0,
        tempo: Tempo | None = None,
    ) -> None:
        self._address = Address(endpoint=endpoint, server_key=server_key, device_keys=device_keys)
        self._device = device or platform.node()
        self._connect_timeout_s = connect_timeout_s
        self._tempo = tempo or Tempo()
        self._connection: Connection | None = None
        self._ready: Ready | None = None
        self._connecting = asyncio.Lock()
        self._readings: dict[str, Reading] = {}
        self._bytes_sent = self._bytes_received = 0  # of connections gone by
        self._closed = False

    async def connect(self, timeout_s: float | None = None) -> ModelCard:
        """Reach the cloud, if not yet connected, and return the card of its model.

        Raises CloudUnreachable, KeyRefused or CloudFailed.
        """
        async with self._connecting:
            if self._closed:
                raise CloudUnreachable("this link is closed; make a new one")
            if self._connection is None or not self._connection.is_open:
                await self._open(self._connect_timeout_s if timeout_s is None else timeout_s)
        return self.card()

    def card(self) -> ModelCard:
        """Return the card of the cloud's model. Raises CloudUnreachable before the first READY."""
        if self._ready is None:
            raise CloudUnreachable(
                f"{self._address.endpoint} is not yet connected, so that its model is unknown; "
                "connect first"
            )
        return self._ready.cards[0]

    async def generate(self, request: Request) -> AsyncIterator[Delta | Finish]:
        """Stream the cloud's answer; its Finish counts the bytes that crossed the link.

        Raises RequestError for a request that may not leave the device, CloudUnreachable,
        KeyRefused, CloudFailed.
        """
        if request.privacy is Privacy.LOCAL_ONLY:
            raise RequestError("a local_only request may not leave the device; answer it near")
        frames = wire.encode(request, request.id)
        _check_size(frames, request)
        await self.connect(_shorter(self._connect_timeout_s, request.deadline_s))
        reading = self._begin(request, frames)
        try:
            while True:
                item = await reading.next()
                if isinstance(item, Finish):
                    yield _with_bytes(item, reading)
                    return
                yield item
        finally:
            self._end(reading)

    def health(self) -> LinkHealth:
        """Return what is known of the link now."""
        connection = self._connection
        alive = connection is not None and connection.is_open
        trips = connection.trips if connection is not None else None
        return LinkHealth(
            alive=alive,
            rtt_s=trips.rtt_s if trips else None,
            in_flight=len(self._readings),
            cloud_in_flight=trips.cloud_in_flight if trips and alive else 0,
            clock_offset_s=trips.clock_offset_s if trips else None,
            bytes_sent=self._bytes_sent + (connection.bytes_sent if connection else 0),
            bytes_received=self._bytes_received + (connection.bytes_received if connection else 0),
        )

    async def aclose(self) -> None:
        """Close the connection; answers in flight fail."""
        self._closed = True
        if self._connection is not None:
            self._connection.close()
        self._on_lost(CloudUnreachable("this link was closed; make a new one"))

    async def _open(self, timeout_s: float) -> None:
        self._retire()
        connection = Connection(
            self._address,
            device=self._device,
            tempo=self._tempo,
            on_message=self._on_message,
            on_lost=self._on_lost,
        )
        self._ready = await connection.open(timeout_s)
        self._connection = connection

    def _retire(self) -> None:
        if self._connection is not None:
            self._bytes_sent += self._connection.bytes_sent
            self._bytes_received += self._connection.bytes_received
            self._connection = None

    def _begin(self, request: Request, frames: list[bytes]) -> Reading:
        assert self._connection is not None, "connect() leaves a connection"
        if request.id in self._readings:
            raise RequestError(f"request {request.id} is being answered already; use a new id")
        reading = Reading(request.id)
        reading.bytes_sent = self._connection.send_frames(frames)
        self._readings[request.id] = reading
        if request.deadline_s is not None:
            reading.expire_after(request.deadline_s + _DEADLINE_GRACE_S)
        return reading

    def _end(self, reading: Reading) -> None:
        del self._readings[reading.id]
        reading.close()
        connection = self._connection
        if not reading.answered and connection is not None and connection.is_open:
            # Where it cannot be sent the cloud notices our silence instead.
            with contextlib.suppress(CloudUnreachable):
                connection.send(Cancel(), reading.id)

    def _on_message(self, envelope: Envelope) -> None:
        reading = self._readings.get(envelope.id)
        if reading is not None:  # else it crossed our CANCEL on the way
            reading.take(envelope)

    def _on_lost(self, error: LinkError) -> None:
        for reading in self._readings.values():
            reading.fail(error)


def _with_bytes(finish: Finish, reading: Reading) -> Finish:
    usage = msgspec.structs.replace(
        finish.usage, bytes_sent=reading.bytes_sent, bytes_received=reading.bytes_received
    )
    return msgspec.structs.replace(finish, usage=usage)


def _shorter(timeout_s: float, deadline_s: float | None) -> float:
    return timeout_s if deadline_s is None else min(timeout_s, deadline_s)


def _check_size(frames: list[bytes], request: Request) -> None:
    size, allowed = wire.size_bytes(frames), request.budget.max_bytes_sent
    if allowed is not None and size > allowed:
        raise RequestError(f"asking the cloud would send {size} bytes, and {allowed} are allowed")
    if size > wire.MAX_MESSAGE_BYTES:
        raise RequestError(
            f"the request has {size} bytes and the link carries {wire.MAX_MESSAGE_BYTES} at most; "
            "shorten it"
        )
