"""The device's side of the link: a cloud's engine, used like one of our own."""

from __future__ import annotations

import asyncio
import contextlib
import platform
import uuid
from collections.abc import AsyncIterator

import msgspec

from backbone.errors import NearfarError
from offload.errors import CloudUnreachable, KeyRefused, LinkError, RequestError
from offload.link import wire
from offload.link.backoff import Backoff
from offload.link.connection import Connection
from offload.link.health import LinkHealth, Tempo
from offload.link.keys import KeyPair
from offload.link.sockets import Address
from offload.link.streams import Reading
from offload.link.wire import Cancel, Credit, Envelope, Ready
from offload.messages import Delta, Finish, ModelCard, Privacy, Request

_FIRST_ATTEMPT_S = 0.5
_DEADLINE_GRACE_S = 1.0  # for the cloud's own FINISH to arrive


class CloudLink:
    """An Engine on another machine; connects at the first use and again after each loss.

    When a connection is lost, answers in flight go on over a new one; after `patience_s` without
    one they fail with CloudUnreachable.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        server_key: str | None = None,
        device_keys: KeyPair | None = None,
        device: str = "",
        connect_timeout_s: float = 3.0,
        patience_s: float = 2.0,
        tempo: Tempo | None = None,
    ) -> None:
        self._address = Address(endpoint=endpoint, server_key=server_key, device_keys=device_keys)
        self._device = device or platform.node()
        self._connect_timeout_s = connect_timeout_s
        self._tempo = tempo or Tempo()
        self._connection: Connection | None = None
        self._ready: Ready | None = None
        self._session = uuid.uuid4().hex
        self._patience_s = patience_s
        self._connecting = asyncio.Lock()
        self._recovery: asyncio.Task[None] | None = None
        self._readings: dict[str, Reading] = {}
        self._bytes_sent = self._bytes_received = 0  # of connections gone by
        self._closed = False

    async def connect(self, timeout_s: float | None = None) -> ModelCard:
        """Reach the cloud, if not yet connected, and return the card of its model.

        Raises CloudUnreachable, KeyRefused or CloudFailed.
        """
        if not self._is_connected:
            async with self._connecting:
                if self._closed:
                    raise CloudUnreachable("this link is closed; make a new one")
                if not self._is_connected:
                    await self._open(self._connect_timeout_s if timeout_s is None else timeout_s)
        return self.card()

    @property
    def _is_connected(self) -> bool:
        return self._connection is not None and self._connection.is_open

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
                self._allow(reading)
                yield item
        finally:
            self._end(reading)

    async def ping(self, *, padding: bytes = b"", timeout_s: float = 1.0) -> float:
        """Return one round trip in seconds, connecting first where need be.

        Raises LinkError, and asyncio.TimeoutError where no answer came in time.
        """
        await self.connect()
        assert self._connection is not None, "connect() leaves a connection"
        return await self._connection.ping(padding=padding, timeout_s=timeout_s)

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
        if self._recovery is not None:
            self._recovery.cancel()
        self._fail_all(CloudUnreachable("this link was closed; make a new one"))
        if self._connection is not None:
            for reading in self._readings.values():
                self._cancel(reading)
            self._connection.close()

    async def _open(self, timeout_s: float) -> None:
        self._retire()
        connection = Connection(
            self._address,
            device=self._device,
            session=self._session,
            tempo=self._tempo,
            on_message=self._on_message,
            on_lost=self._on_lost,
        )
        ready = await connection.open(timeout_s)
        restarted = self._ready is not None and self._ready.instance != ready.instance
        self._connection, self._ready = connection, ready
        for reading in list(self._readings.values()):
            if restarted:
                reading.fail(CloudUnreachable("the cloud restarted in mid-answer; ask again"))
            elif not reading.has_ended:
                self._say(reading, reading.renewal())

    def _retire(self) -> None:
        if self._connection is not None:
            self._bytes_sent += self._connection.bytes_sent
            self._bytes_received += self._connection.bytes_received
            self._connection = None

    def _begin(self, request: Request, frames: list[bytes]) -> Reading:
        assert self._ready is not None, "connect() leaves a cloud that is ready"
        if request.id in self._readings:
            raise RequestError(f"request {request.id} is being answered already; use a new id")
        reading = Reading(request, window=self._ready.window, grace_s=_DEADLINE_GRACE_S)
        self._readings[request.id] = reading
        self._say(reading, frames)
        return reading

    def _end(self, reading: Reading) -> None:
        del self._readings[reading.id]
        reading.close()
        self._cancel(reading)

    def _cancel(self, reading: Reading) -> None:
        connection = self._connection
        if not reading.answered and connection is not None and connection.is_open:
            # Where it cannot be sent the cloud notices our silence instead.
            with contextlib.suppress(CloudUnreachable):
                connection.send(Cancel(), reading.id)

    def _say(self, reading: Reading, frames: list[bytes]) -> None:
        """Send a message of a request; where it cannot leave, the connection is no good."""
        assert self._connection is not None, "an answer begins on a connection"
        try:
            reading.bytes_sent += self._connection.send_frames(frames)
        except CloudUnreachable as error:
            self._connection.lose(error)

    def _allow(self, reading: Reading) -> None:
        until = reading.new_credit()
        if until is not None and self._connection is not None and self._connection.is_open:
            self._say(reading, wire.encode(Credit(until), reading.id))

    def _on_message(self, envelope: Envelope) -> None:
        reading = self._readings.get(envelope.id)
        if reading is not None:  # else it crossed our CANCEL on the way
            reading.take(envelope)

    def _on_lost(self, error: LinkError) -> None:
        hopeless = self._closed or self._patience_s <= 0 or isinstance(error, KeyRefused)
        if hopeless or not self._readings:
            self._fail_all(error)
        elif self._recovery is None or self._recovery.done():
            self._recovery = asyncio.create_task(self._recover(error))

    async def _recover(self, error: LinkError) -> None:
        """Connect again for the sake of the answers in flight, until patience ends."""
        loop = asyncio.get_running_loop()
        end_s = loop.time() + self._patience_s
        attempt_s = _FIRST_ATTEMPT_S
        for wait_s in Backoff():
            left_s = end_s - loop.time()
            if left_s <= 0 or not self._readings:
                break
            try:
                # Short at first: a handshake that the network swallowed never comes to an end.
                await self.connect(min(left_s, attempt_s))
                return
            except CloudUnreachable:
                await asyncio.sleep(min(wait_s, max(0.0, end_s - loop.time())))
                attempt_s *= 2
            except NearfarError as refusal:
                self._fail_all(refusal)
                return
        self._fail_all(error)

    def _fail_all(self, error: NearfarError) -> None:
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
