"""Connection of a device to its cloud, from the handshake to its loss; never used again.

Waiting for libzmq to reconnect by itself would leave us guessing what the new server knows of us,
so a lost connection is closed and a new one opened from the start.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import msgspec
import zmq
from zmq.utils.monitor import parse_monitor_message

from offload.errors import CloudFailed, CloudUnreachable, KeyRefused, LinkError
from offload.link import message_bodies, wire
from offload.link.health import Heartbeat, HeartbeatTimes, RoundTrips
from offload.link.message_bodies import Hello, HelloRefused, Kind, Ping, Pong, Ready
from offload.link.socket_pump import Pump
from offload.link.sockets import HANDSHAKE_S, Address, dial
from offload.link.wire import Envelope, WireError

_MECHANISM_MISMATCH = zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH
_RESEND_S = 0.002
_HELP = "start it with `nearfar cloud serve`, or correct cloud.url"


class Connection:
    """Connection: a socket behind its handshake, which pings while nothing else is said."""

    def __init__(
        self,
        address: Address,
        *,
        device: str,
        session: str,
        times: HeartbeatTimes,
        on_message: Callable[[Envelope], None],
        on_lost: Callable[[LinkError], None],
    ) -> None:
        self.address = address
        self.trips = RoundTrips()
        self.bytes_sent = self.bytes_received = 0
        self._device, self._session = device, session
        self._times = times
        self._on_message = on_message
        self._on_lost = on_lost
        self._heartbeat = Heartbeat(times)
        self._opened: asyncio.Future[Ready] = asyncio.get_running_loop().create_future()
        self._closed = False
        self._hello_s = 0.0
        self._was_connected = False
        self._connected_s = 0.0
        self._num_broken_handshakes = 0
        self._beat: asyncio.Task[None] | None = None
        self.pinged: dict[float, asyncio.Future[float]] = {}
        self._socket, self._monitor = dial(address)
        self._monitor_pump = Pump(self._monitor, self.receive_event)
        self._pump = Pump(self._socket, self.receive)

    async def open(self, timeout_s: float) -> Ready:
        """Shake hands. Raises CloudUnreachable, KeyRefused or CloudFailed, and closes itself."""
        try:
            ready = await asyncio.wait_for(asyncio.shield(self._opened), timeout_s)
        except asyncio.TimeoutError:
            self.close()
            raise self._no_answer(timeout_s) from None
        except BaseException:
            self.close()
            raise
        self._beat = asyncio.create_task(self._keep_alive())
        return ready

    def send(self, body: message_bodies.AnyBody, request_id: str = "") -> int:
        """Send a message and return its bytes. Raises CloudUnreachable where it cannot leave."""
        return self.send_message(wire.encode(body, request_id))

    def send_message(self, message: bytes) -> int:
        """Send an encoded message and return its bytes. Raises CloudUnreachable."""
        if self._closed or not self._pump.send([message]):
            raise CloudUnreachable(f"{self.address.endpoint} takes no more messages; {_HELP}")
        self.bytes_sent += len(message)
        self._heartbeat.sent()
        return len(message)

    async def ping(self, *, padding: bytes = b"", timeout_s: float = 1.0) -> float:
        """Return one round trip in seconds. Raises asyncio.TimeoutError, CloudUnreachable."""
        sent_s = time.monotonic()
        self.pinged[sent_s] = asyncio.get_running_loop().create_future()
        try:
            self.send(Ping(sent_s, padding))
            return await asyncio.wait_for(self.pinged[sent_s], timeout_s)
        finally:
            self.pinged.pop(sent_s, None)

    @property
    def is_open(self) -> bool:
        return not self._closed

    def close(self) -> None:
        """Close the socket; nobody is told."""
        if self._closed:
            return
        self._closed = True
        if self._beat is not None:
            self._beat.cancel()
        self._socket.disable_monitor()
        self._monitor_pump.close()
        self._pump.close()
        if self._opened.done() and not self._opened.cancelled():
            self._opened.exception()  # seen, even where nobody waits any more
        self._opened.cancel()

    def lose(self, error: LinkError) -> None:
        """Close, and tell the owner; before READY, tell the one who waits for it."""
        if self._closed:
            return
        if not self._opened.done():
            self._opened.set_exception(error)
            return
        self.close()
        self._on_lost(error)

    async def _keep_alive(self) -> None:
        while not self._closed:
            self._heartbeat.look()
            if self._heartbeat.is_dead:
                self._pump.drain()  # perhaps it was we who did not listen
            if self._heartbeat.is_dead:
                silence = f"for {self._times.dead_after_s:g} s"
                self.lose(CloudUnreachable(f"{self.address.endpoint} is silent {silence}; {_HELP}"))
            elif self._heartbeat.wants_ping:
                # A full queue is no news: the silence that follows will tell.
                self._pump.send([wire.encode(Ping(time.monotonic()))])
                self._heartbeat.sent()
            await asyncio.sleep(self._times.look_every_s)

    def receive(self, frames: list[zmq.Frame]) -> None:
        self.bytes_received += sum(len(frame) for frame in frames)
        self._heartbeat.heard()
        try:
            if len(frames) != 1:
                raise WireError(f"a message of {len(frames)} frames")
            self._take(wire.open_envelope(frames[0].bytes))
        except WireError as error:
            self.lose(
                CloudFailed(
                    f"{self.address.endpoint} speaks another protocol ({error}); "
                    "update the older side"
                )
            )

    def _take(self, envelope: Envelope) -> None:
        if envelope.kind not in (Kind.READY, Kind.REFUSED, Kind.PONG):
            self._on_message(envelope)
            return
        body = wire.open_body(envelope)
        if isinstance(body, Ready) and not wire.OLDEST_VERSION <= body.version <= wire.VERSION:
            raise WireError(f"it chose version {body.version}, which was not offered")
        if isinstance(body, Ready) and not self._opened.done():
            self._note_trip(self._hello_s, body.clock_s)
            cards = tuple(card.shortened() for card in body.cards)
            self._opened.set_result(msgspec.structs.replace(body, cards=cards))
        elif isinstance(body, HelloRefused):
            self.lose(_refusal(self.address.endpoint, body))
        elif isinstance(body, Pong):
            if not body.padding:  # the way of a large one would be no measure for a small one
                self._note_trip(body.sent_s, body.clock_s)
            waiting = self.pinged.get(body.sent_s)
            if waiting is not None and not waiting.done():
                waiting.set_result(time.monotonic() - body.sent_s)
            self.trips.load = body.load

    def _note_trip(self, sent_s: float, cloud_clock_s: float) -> None:
        rtt_s = time.monotonic() - sent_s
        self.trips.note(rtt_s=rtt_s, cloud_clock_s=cloud_clock_s, our_clock_s=time.time())

    def receive_event(self, frames: list[zmq.Frame]) -> None:
        event = parse_monitor_message([frame.bytes for frame in frames])
        kind, value = event["event"], int(event["value"])
        if kind == zmq.Event.CONNECTED:
            self._was_connected, self._connected_s = True, time.monotonic()
        elif kind == zmq.Event.HANDSHAKE_SUCCEEDED:
            self._say_hello()
        elif kind == zmq.Event.HANDSHAKE_FAILED_NO_DETAIL:
            # A cloud that says nothing (frozen, or another program) did not hang up: we did.
            if time.monotonic() - self._connected_s < 0.5 * HANDSHAKE_S:
                self._num_broken_handshakes += 1
                self._maybe_wrong_key()
        elif kind in (zmq.Event.HANDSHAKE_FAILED_AUTH, zmq.Event.HANDSHAKE_FAILED_PROTOCOL):
            self.lose(KeyRefused(self._refusal(kind, value)))
        elif kind == zmq.Event.DISCONNECTED and self._opened.done():
            self.lose(CloudUnreachable(f"{self.address.endpoint} closed the connection; {_HELP}"))

    def _say_hello(self) -> None:
        if self._closed or self._opened.done():
            return
        hello = Hello(
            oldest_version=wire.OLDEST_VERSION,
            newest_version=wire.VERSION,
            device=self._device,
            session=self._session,
            hears_reading=True,
        )
        message, self._hello_s = wire.encode(hello), time.monotonic()
        if not self._pump.send([message]):  # the event may overtake the pipe that it announces
            asyncio.get_running_loop().call_later(_RESEND_S, self._say_hello)

    def _maybe_wrong_key(self) -> None:
        # A cloud that cannot decrypt our first message just hangs up; one that dies does too, once.
        if self.address.server_key is not None and self._num_broken_handshakes >= 2:
            self.lose(
                KeyRefused(
                    f"{self.address.endpoint} hangs up while keys are exchanged: it is not the "
                    "cloud whose key this device has, or it uses no keys; ask for a new invite"
                )
            )

    def _refusal(self, kind: int, value: int) -> str:
        endpoint = self.address.endpoint
        if kind == zmq.Event.HANDSHAKE_FAILED_AUTH:
            return (
                f"{endpoint} does not know this device's key; ask its operator for an invite and "
                "run `nearfar link join`"
            )
        if value == _MECHANISM_MISMATCH and self.address.server_key is None:
            return f"{endpoint} needs keys; ask for an invite and run `nearfar link join`"
        if value == _MECHANISM_MISMATCH:
            return f"{endpoint} uses no keys, though this device has one for it; check cloud.url"
        return f"{endpoint} is not the cloud whose key this device has; ask for a new invite"

    def _no_answer(self, timeout_s: float) -> LinkError:
        endpoint = self.address.endpoint
        if self._num_broken_handshakes:
            # One that needs keys may hang up before its greeting, which says so, has come.
            keys = "ask for an invite and run `nearfar link join` if it needs keys, or "
            remedy = f"{keys if self.address.server_key is None else ''}{_HELP}"
            return CloudUnreachable(f"{endpoint} hangs up in the handshake; {remedy}")
        if self._was_connected:
            return CloudUnreachable(
                f"something listens at {endpoint} but does not answer as a nearfar cloud; {_HELP}"
            )
        return CloudUnreachable(f"nothing answers at {endpoint} within {timeout_s:.3g} s; {_HELP}")


def _refusal(endpoint: str, refused: HelloRefused) -> LinkError:
    if refused.code == "hello":  # it has forgotten us, as after a long sleep
        return CloudUnreachable(f"{endpoint} needs a new handshake; {_HELP}")
    if refused.code == "key":
        return KeyRefused(f"{endpoint} no longer lets this device in; ask its operator")
    return CloudFailed(f"{endpoint} refuses: {refused.message}")
