"""Client of the link: an engine on another machine, used like one of our own."""

from __future__ import annotations

import platform

import msgspec

from backbone.errors import NearfarError
from offload.chat_turns import require_no_pictures
from offload.engine import AnswerStream
from offload.errors import CloudUnreachable, LinkError, RequestError
from offload.link import wire
from offload.link.health import CloudSnapshot, HeartbeatTimes, LinkHealth
from offload.link.keys import KeyPair
from offload.link.message_bodies import Cancel, Credit
from offload.link.receive_stream import ReceiveStream
from offload.link.reconnecting import Reconnecting
from offload.link.sockets import Address
from offload.link.wire import Envelope
from offload.messages import EngineLoad, Finish, ModelCard, Privacy, Request
from offload.reading import listener

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
        times: HeartbeatTimes | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.connect_timeout_s = connect_timeout_s
        self._readings: dict[str, ReceiveStream] = {}
        self.line = Reconnecting(
            Address(endpoint=endpoint, server_key=server_key, device_keys=device_keys),
            device=device or platform.node(),
            patience_s=patience_s,
            times=times or HeartbeatTimes(),
            is_needed=lambda: bool(self._readings),
            on_message=self._on_message,
            on_open=self._renew,
            on_lost=self._fail_all,
        )

    async def connect(self, timeout_s: float | None = None) -> ModelCard:
        """Reach the cloud, if not yet connected, and return the card of its model.

        Raises CloudUnreachable, KeyRefused or CloudFailed.
        """
        await self.line.connect(self.connect_timeout_s if timeout_s is None else timeout_s)
        return self.card()

    def card(self) -> ModelCard:
        """Return the card of the cloud's model. Raises CloudUnreachable before the first READY."""
        if self.line.ready is None:
            raise CloudUnreachable(
                f"{self.endpoint} is not yet connected, so that its model is unknown; connect first"
            )
        return self.line.ready.cards[0]

    async def generate(self, request: Request) -> AnswerStream:
        """Stream the cloud's answer; its Finish counts the bytes that crossed the link.

        Raises RequestError for a request that may not leave the device, CloudUnreachable,
        KeyRefused, CloudFailed, CloudBusy; LinkError.bytes_sent is what had left by then.
        """
        if request.privacy is Privacy.LOCAL_ONLY:
            raise RequestError("a local_only request may not leave the device; answer it near")
        require_no_pictures(request)  # clouds of our own read text
        message = wire.encode(request, request.id)
        _check_size(message, request)
        await self.line.connect(_shorter(self.connect_timeout_s, request.deadline_s))
        assert self.line.ready is not None, "an open line has a cloud that is ready"
        if (older := wire.for_version(request, self.line.ready.version)) is not request:
            message = wire.encode(older, request.id)
        reading = self._begin(request, message)
        try:
            while True:
                item = await reading.next()
                if isinstance(item, Finish):
                    yield _with_bytes(item, reading)
                    return
                self._allow(reading)
                yield item
        except LinkError as error:
            error.bytes_sent = reading.bytes_sent
            raise
        finally:
            self._end(reading)

    async def ping(self, *, padding: bytes = b"", timeout_s: float = 1.0) -> float:
        """Return one round trip in seconds, connecting first where need be.

        Raises LinkError, and asyncio.TimeoutError where no answer came in time.
        """
        connection = await self.line.connect(self.connect_timeout_s)
        return await connection.ping(padding=padding, timeout_s=timeout_s)

    def snapshot(self) -> CloudSnapshot:
        """Return what a policy may know of this cloud before it asks."""
        trips = self.line.trips
        if trips is None:
            return CloudSnapshot(healthy=not self.line.has_failed)
        return CloudSnapshot(
            healthy=not self.line.has_failed,
            rtt_s=trips.rtt_s,
            queue_s=trips.load.queue_s,
            first_piece_s=trips.load.first_piece_s,
            num_waiting=trips.load.num_waiting,
        )

    def report(self) -> EngineLoad | None:
        """Return what the engine said of its load at the last ping; see offload.engine."""
        return self.line.trips.load.engine if self.line.trips else None

    def health(self) -> LinkHealth:
        """Return what is known of the link now."""
        trips, alive = self.line.trips, self.line.is_open
        return LinkHealth(
            alive=alive,
            rtt_s=trips.rtt_s if trips else None,
            in_flight=len(self._readings),
            cloud_in_flight=trips.load.in_flight if trips and alive else 0,
            clock_offset_s=trips.clock_offset_s if trips else None,
            bytes_sent=self.line.bytes_sent,
            bytes_received=self.line.bytes_received,
        )

    async def aclose(self) -> None:
        """Close the connection; answers in flight fail."""
        self._fail_all(CloudUnreachable("this link was closed; make a new one"))
        for reading in self._readings.values():
            self._cancel(reading)
        self.line.close()

    def _begin(self, request: Request, message: bytes) -> ReceiveStream:
        assert self.line.ready is not None, "an open line has a cloud that is ready"
        if request.id in self._readings:
            raise RequestError(f"request {request.id} is being answered already; use a new id")
        reading = ReceiveStream(
            request,
            window=self.line.ready.window,
            grace_s=_DEADLINE_GRACE_S,
            progress=listener(),
        )
        self._readings[request.id] = reading
        self._say(reading, message)
        return reading

    def _end(self, reading: ReceiveStream) -> None:
        del self._readings[reading.id]
        reading.close()
        self._cancel(reading)

    def _cancel(self, reading: ReceiveStream) -> None:
        if not reading.answered:  # where it cannot be sent the cloud notices our silence instead
            self.line.send(wire.encode(Cancel(), reading.id))

    def _say(self, reading: ReceiveStream, message: bytes) -> None:
        reading.bytes_sent += self.line.send(message)

    def _allow(self, reading: ReceiveStream) -> None:
        until = reading.new_credit()
        if until is not None:
            self._say(reading, wire.encode(Credit(until), reading.id))

    def _on_message(self, envelope: Envelope) -> None:
        reading = self._readings.get(envelope.id)
        if reading is not None:  # else it crossed our CANCEL on the way
            reading.take(envelope)

    def _renew(self, is_restarted: bool) -> None:
        """Over a new connection, go on with what is being read."""
        for reading in list(self._readings.values()):
            if is_restarted:
                reading.fail(CloudUnreachable("the cloud restarted in mid-answer; ask again"))
            elif not reading.has_ended:
                self._say(reading, reading.renewal())

    def _fail_all(self, error: NearfarError) -> None:
        for reading in self._readings.values():
            reading.fail(type(error)(str(error)))  # its own, for bytes_sent is told on it


def _with_bytes(finish: Finish, reading: ReceiveStream) -> Finish:
    usage = msgspec.structs.replace(
        finish.usage, bytes_sent=reading.bytes_sent, bytes_received=reading.bytes_received
    )
    return msgspec.structs.replace(finish, usage=usage)


def _shorter(timeout_s: float, deadline_s: float | None) -> float:
    return timeout_s if deadline_s is None else min(timeout_s, deadline_s)


def _check_size(message: bytes, request: Request) -> None:
    size, allowed = len(message), request.budget.max_bytes_sent
    if allowed is not None and size > allowed:
        raise RequestError(
            f"asking the cloud would send {size} bytes, and {allowed} are allowed; shorten it"
        )
