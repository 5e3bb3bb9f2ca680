"""The cloud's side of the link: any engine, served to many devices on one ROUTER socket."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from dataclasses import dataclass, field

import zmq

from offload.engine import Engine
from offload.errors import RequestError, SettingsError
from offload.link import wire
from offload.link.answer import Key, Owner
from offload.link.answers import AnswerBook, AnswerLimits, Send
from offload.link.door import Door
from offload.link.failures import BUSY, to_failure
from offload.link.gatekeeper import Gatekeeper
from offload.link.health import Pulse, Tempo
from offload.link.invites import InviteList
from offload.link.keys import DeviceList, KeyPair, require_curve
from offload.link.pump import Pump
from offload.link.quota import Meter
from offload.link.sockets import listen
from offload.link.wire import (
    Cancel,
    Credit,
    Envelope,
    Failure,
    Hello,
    Join,
    Kind,
    Ping,
    Pong,
    Ready,
    Refused,
    Resume,
    WireError,
)
from offload.messages import Request

_DRAIN_LOOK_S = 0.02
_LINGER_S = 1.0
_SHUT_OUT = Refused(code="key", message="this device may no longer use this cloud")

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Peer:
    """One connection of one device; a device that reconnects is a new peer."""

    identity: bytes
    owner: Owner
    pulse: Pulse
    asking: set[str] = field(default_factory=set)


class LinkServer:
    """Serves an engine to devices; the engine stays the caller's to close."""

    def __init__(
        self,
        engine: Engine,
        endpoint: str = "tcp://127.0.0.1:0",
        *,
        keys: KeyPair | None = None,
        devices: DeviceList | None = None,
        invites: InviteList | None = None,
        meter: Meter | None = None,
        limits: AnswerLimits | None = None,
        peer_silence_s: float = 2.0,
    ) -> None:
        remedy = "give the cloud a pair of keys, or bind 127.0.0.1"
        require_curve(endpoint, has_keys=keys is not None, remedy=remedy)
        self._engine = engine
        self._asked_endpoint = endpoint
        self._endpoint: str | None = None
        self._keys = keys
        self._door = Door(devices=devices, invites=invites, meter=meter)
        self._draining = False
        self._limits = limits or AnswerLimits()
        self._tempo = Tempo(dead_after_s=peer_silence_s)
        self._instance = uuid.uuid4().hex
        self._peers: dict[bytes, _Peer] = {}
        self._listening: dict[Key, _Peer] = {}
        self._closed = asyncio.Event()
        self.num_bad_messages = 0

    @property
    def endpoint(self) -> str:
        """The address that devices can reach, its port filled in. Needs `start`."""
        assert self._endpoint is not None, "start() binds the endpoint"
        return self._endpoint

    @property
    def num_in_flight(self) -> int:
        """How many requests are being answered now."""
        return self._answers.num_running

    async def start(self) -> None:
        """Bind and begin to serve. Raises SettingsError where the endpoint cannot be bound."""
        # A context of its own, since there can be only one ZAP handler in each.
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._gatekeeper: Gatekeeper | None = None
        if self._keys is not None:
            self._gatekeeper = Gatekeeper(self._context, self._door.lets_in)
        try:
            socket = listen(self._context, self._asked_endpoint, self._keys)
        except SettingsError:
            if self._gatekeeper is not None:
                self._gatekeeper.close()
            self._context.term()
            raise
        self._pump = Pump(socket, self._on_frames)
        self._endpoint = socket.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\0")
        self._answers = AnswerBook(self._engine, self._limits, self._door.meter, on_gone=self._gone)
        self._sweeper = asyncio.create_task(self._sweep())

    async def serve(self) -> None:
        """Serve until closed or cancelled."""
        if self._endpoint is None:
            await self.start()
        try:
            await self._closed.wait()
        finally:
            await self.aclose()

    async def drain(self, timeout_s: float = 30.0) -> None:
        """Take nothing new, let what runs come to its end and be heard, and close."""
        self._draining = True
        loop = asyncio.get_running_loop()
        end_s = loop.time() + timeout_s
        while self._endpoint is not None and not self._answers.all_heard and loop.time() < end_s:
            await asyncio.sleep(_DRAIN_LOOK_S)
        await self.aclose()

    async def aclose(self) -> None:
        """Stop every answer, wait until the engine has let go of them, close the socket."""
        if self._endpoint is None or self._closed.is_set():
            return
        self._closed.set()
        self._sweeper.cancel()
        await self._answers.aclose()
        self._door.meter.save(now=True)
        # What was said last may still be on its way out when a drain ends.
        self._pump.close(linger_s=_LINGER_S if self._draining else 0.0)
        if self._gatekeeper is not None:
            self._gatekeeper.close()
        await asyncio.to_thread(self._context.term)

    # What arrives

    def _on_frames(self, frames: list[zmq.Frame]) -> None:
        if len(frames) != 5:  # the first is the connection's identity
            self._note_bad()
            return
        identity, *parts = (frame.bytes for frame in frames)
        device_key = _device_key(frames[-1])
        assert device_key or self._keys is None, "the gatekeeper names whom it lets in"
        peer = self._peers.get(identity)
        if peer is not None:
            peer.pulse.heard()
        try:
            envelope = wire.open_envelope(parts)
            self._dispatch(identity, device_key, peer, envelope)
        except WireError:
            self._note_bad()

    def _dispatch(
        self, identity: bytes, device_key: str, peer: _Peer | None, envelope: Envelope
    ) -> None:
        if envelope.kind is Kind.HELLO:
            self._welcome(identity, device_key, envelope)
        elif peer is None:
            self._send(identity, Refused(code="hello", message="say HELLO first"))
        elif envelope.kind is Kind.REQUEST:
            self._accept(peer, envelope)
        else:
            self._hear(peer, envelope.id, wire.open_body(envelope))

    def _hear(self, peer: _Peer, request_id: str, body: wire.AnyBody) -> None:
        key = Key(peer.owner, request_id)
        if isinstance(body, Ping):
            pong = Pong(body.sent_s, time.time(), self._answers.load(), body.padding)
            self._send(peer.identity, pong)
        elif isinstance(body, Credit):
            self._answers.allow(key, body.until)
        elif isinstance(body, Resume):
            self._resume(peer, request_id, body)
        elif isinstance(body, Join):
            reply = self._door.join(peer.owner.device_key, body)
            self._send(peer.identity, reply, request_id)
        elif isinstance(body, Cancel):
            self._answers.cancel(key)
        else:
            raise WireError("a device does not say that")

    def _welcome(self, identity: bytes, device_key: str, envelope: Envelope) -> None:
        hello = wire.open_body(envelope)
        assert isinstance(hello, Hello), "a HELLO decodes to Hello"
        if not self._door.lets_in(device_key):
            self._send(identity, _SHUT_OUT)
            return
        if not hello.oldest_version <= wire.VERSION <= hello.newest_version:
            self._send(identity, _version_refusal(hello))
            return
        if identity not in self._peers:
            owner = Owner(device_key, hello.session)
            self._peers[identity] = _Peer(identity, owner, Pulse(self._tempo))
        ready = Ready(
            version=wire.VERSION,
            cards=(self._engine.card(),),
            instance=self._instance,
            window=self._limits.window,
            max_message_bytes=wire.MAX_MESSAGE_BYTES,
            max_streams=self._limits.max_streams_per_device,
            clock_s=time.time(),
        )
        self._send(identity, ready)

    def _accept(self, peer: _Peer, envelope: Envelope) -> None:
        key = Key(peer.owner, envelope.id)
        if self._answers.knows(key):  # said twice, perhaps over two connections; it runs once
            self._resume(peer, envelope.id, Resume(0, 0))
            return
        refusal = self._why_not(peer.owner.device_key)
        if refusal is not None:
            self._send(peer.identity, refusal, envelope.id)
            return
        try:
            request = wire.open_body(envelope)
        except (RequestError, WireError) as error:
            self._send(peer.identity, to_failure(error), envelope.id)
            return
        assert isinstance(request, Request), "a REQUEST decodes to Request"
        if request.id != envelope.id:
            raise WireError("the id in the head is not the request's")
        self._answers.begin(key, request, self._voice(peer, envelope.id))

    def _why_not(self, device_key: str) -> Failure | None:
        if self._draining:
            return Failure(BUSY, "the cloud is closing; ask another, or ask later")
        return self._door.why_not(device_key) or self._answers.why_not(device_key)

    def _resume(self, peer: _Peer, request_id: str, body: Resume) -> None:
        voice = self._voice(peer, request_id)
        key = Key(peer.owner, request_id)
        failure = self._answers.resume(key, voice, body.received, body.until)
        if failure is not None:
            self._gone(key)
            self._send(peer.identity, failure, request_id)

    # What leaves

    def _voice(self, peer: _Peer, request_id: str) -> Send:
        """Return how an answer speaks to its device; a peer found to have left is forgotten."""
        key = Key(peer.owner, request_id)
        self._gone(key)  # from the connection that listened before
        self._listening[key] = peer
        peer.asking.add(request_id)

        def say(body: wire.AnyBody) -> bool:
            try:
                return self._pump.send([peer.identity, *wire.encode(body, request_id)])
            except zmq.ZMQError:
                self._forget(peer)
                return False

        return say

    def _send(self, identity: bytes, body: wire.AnyBody, request_id: str = "") -> None:
        # A peer that has no room for a short reply, or has left, does without it.
        with contextlib.suppress(zmq.ZMQError):
            self._pump.send([identity, *wire.encode(body, request_id)])

    # Who leaves

    def _gone(self, key: Key) -> None:
        """Nobody listens to this answer any more."""
        peer = self._listening.pop(key, None)
        if peer is not None:
            peer.asking.discard(key.request_id)

    def _forget(self, peer: _Peer) -> None:
        self._peers.pop(peer.identity, None)
        for request_id in list(peer.asking):
            self._gone(Key(peer.owner, request_id))
            self._answers.leave(Key(peer.owner, request_id))

    def _shut_out(self, peer: _Peer) -> None:
        for request_id in list(peer.asking):
            self._answers.cancel(Key(peer.owner, request_id))
        self._peers.pop(peer.identity, None)
        self._send(peer.identity, _SHUT_OUT)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(self._tempo.look_every_s)
            try:
                self._sweep_once()
            except Exception:
                _log.exception("sweeping failed; it will be tried again")

    def _sweep_once(self) -> None:
        if any(peer.pulse.is_dead for peer in self._peers.values()):
            self._pump.drain()  # perhaps it was we who did not listen
        for peer in list(self._peers.values()):
            if not self._door.lets_in(peer.owner.device_key):
                self._shut_out(peer)
            elif peer.pulse.is_dead:
                self._forget(peer)
        self._answers.sweep()
        self._door.meter.save()

    def _note_bad(self) -> None:
        self.num_bad_messages += 1
        if self.num_bad_messages & (self.num_bad_messages - 1) == 0:  # 1, 2, 4, 8, ...
            _log.warning("%d messages were no messages of this protocol", self.num_bad_messages)


def _device_key(frame: zmq.Frame) -> str:
    try:
        return str(frame.get("User-Id"))
    except zmq.ZMQError:
        return ""  # no keys on this machine's own endpoint


def _version_refusal(hello: Hello) -> Refused:
    theirs = f"{hello.oldest_version} to {hello.newest_version}"
    ours = f"{wire.OLDEST_VERSION} to {wire.VERSION}"
    older = "device" if hello.newest_version < wire.VERSION else "cloud"
    return Refused(
        code="version",
        message=f"the device speaks protocol {theirs}, the cloud {ours}; update the {older}",
    )
