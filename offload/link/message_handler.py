"""Message handler of the cloud: takes each device's messages and answers them."""

from __future__ import annotations

import contextlib
import logging
import time
import uuid
from collections.abc import Callable

import msgspec
import zmq

from backbone.errors import NearfarError
from offload.engine import Engine, LoadReporting
from offload.errors import RequestError
from offload.link import message_bodies, wire
from offload.link.access import Access
from offload.link.answer_task import Key, Owner
from offload.link.failures import BUSY, to_failure
from offload.link.health import Heartbeat, HeartbeatTimes
from offload.link.message_bodies import Kind
from offload.link.peers import HELLO_FIRST, SHUT_OUT, Peer, Peers, answer_hello
from offload.link.running_requests import AnswerBook, AnswerLimits
from offload.link.send_buffer import Send
from offload.link.wire import Envelope, WireError
from offload.messages import Request

_log = logging.getLogger(__name__)


class MessageHandler:
    """Handler of messages: lets the engine answer them, and notices who has left.

    `send` sends frames to the identity in the first of them, or returns False where it has no room
    now, and raises zmq.ZMQError where nobody has that identity.
    """

    def __init__(
        self,
        engine: Engine,
        door: Access,
        limits: AnswerLimits,
        times: HeartbeatTimes,
        send: Callable[[list[bytes]], bool],
        *,
        trusts_asker: bool = False,
    ) -> None:
        self._engine, self._door, self._limits, self.times = engine, door, limits, times
        self._send_frames = send
        self._instance = uuid.uuid4().hex
        self.peers = Peers()
        self.answers = AnswerBook(
            engine, limits, door.meter, on_gone=self.peers.ignore, trusts_asker=trusts_asker
        )
        self.takes_requests = True
        self.num_bad_messages = 0

    # What arrives

    def take(self, identity: bytes, device_key: str, message: bytes) -> None:
        """Take one message; one that is none is counted, and costs its sender nothing else."""
        peer = self.peers.find(identity)
        if peer is not None and peer.owner.device_key != device_key:
            peer = None  # a device may choose its identity: one that has just left is not it
        if peer is not None:
            peer.heartbeat.heard()
        try:
            self._dispatch(identity, device_key, peer, wire.open_envelope(message))
        except WireError:
            self.note_bad()

    def _dispatch(
        self, identity: bytes, device_key: str, peer: Peer | None, envelope: Envelope
    ) -> None:
        if envelope.kind is Kind.HELLO:
            hello = wire.open_body(envelope)
            assert isinstance(hello, message_bodies.Hello), "a HELLO decodes to Hello"
            self._send(identity, self._welcome(identity, device_key, hello))
        elif peer is None:
            self._send(identity, HELLO_FIRST)
        elif envelope.kind is Kind.REQUEST:
            self._accept(peer, envelope)
        else:
            self._hear(peer, envelope.id, wire.open_body(envelope))

    def _welcome(
        self, identity: bytes, device_key: str, hello: message_bodies.Hello
    ) -> message_bodies.Ready | message_bodies.HelloRefused:
        if not self._door.lets_in(device_key):
            return SHUT_OUT
        try:
            cards = (self._engine.card(),)
        except NearfarError as error:  # an engine that is itself far away and not yet reached
            return message_bodies.HelloRefused(code="engine", message=str(error))
        reply = answer_hello(hello, instance=self._instance, cards=cards, limits=self._limits)
        if isinstance(reply, message_bodies.Ready):
            owner = Owner(device_key, hello.session)
            beat = Heartbeat(self.times)
            peer = Peer(
                identity, owner, beat, hears_reading=hello.hears_reading, version=reply.version
            )
            self.peers.greet(peer)
        return reply

    def _hear(self, peer: Peer, request_id: str, body: message_bodies.AnyBody) -> None:
        key = Key(peer.owner, request_id)
        if isinstance(body, message_bodies.Ping):
            pong = message_bodies.Pong(body.sent_s, time.time(), self._load(peer), body.padding)
            self._send(peer.identity, pong)
        elif isinstance(body, message_bodies.Credit):
            self.answers.allow(key, body.until)
        elif isinstance(body, message_bodies.Resume):
            self._resume(peer, request_id, body)
        elif isinstance(body, message_bodies.Join):
            reply = self._door.join(peer.owner.device_key, body)
            self._send(peer.identity, reply, request_id)
        elif isinstance(body, message_bodies.Cancel):
            self.answers.cancel(key)
        else:
            raise WireError("a device does not say that")

    def _load(self, peer: Peer) -> message_bodies.Load:
        load = self.answers.load()
        if peer.owner.device_key or not isinstance(self._engine, LoadReporting):
            return load
        return msgspec.structs.replace(load, engine=self._engine.report())

    def _accept(self, peer: Peer, envelope: Envelope) -> None:
        key = Key(peer.owner, envelope.id)
        if self.answers.knows(key):  # said twice, perhaps over two connections; it runs once
            self._resume(peer, envelope.id, message_bodies.Resume(0, 0))
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
        self.answers.begin(key, request, self._voice(peer, envelope.id))

    def _why_not(self, device_key: str) -> message_bodies.Failure | None:
        if not self.takes_requests:
            return message_bodies.Failure(BUSY, "the cloud is closing; ask another, or ask later")
        return self._door.why_not(device_key) or self.answers.why_not(device_key)

    def _resume(self, peer: Peer, request_id: str, body: message_bodies.Resume) -> None:
        voice = self._voice(peer, request_id)
        key = Key(peer.owner, request_id)
        failure = self.answers.resume(key, voice, body.received, body.until)
        if failure is not None:
            self.peers.ignore(key)
            self._send(peer.identity, failure, request_id)

    # What leaves

    def _voice(self, peer: Peer, request_id: str) -> Send:
        """Return how an answer speaks to its device; a peer found to have left is forgotten."""
        self.peers.listen(peer, Key(peer.owner, request_id))

        def say(body: message_bodies.AnyBody) -> bool:
            if isinstance(body, message_bodies.Reading) and not peer.hears_reading:
                return True
            try:
                readable = wire.for_version(body, peer.version)
                return self._send_frames([peer.identity, wire.encode(readable, request_id)])
            except zmq.ZMQError:
                self.forget(peer)
                return False

        return say

    def _send(self, identity: bytes, body: message_bodies.AnyBody, request_id: str = "") -> None:
        # A peer that has no room for a short reply, or has left, does without it.
        with contextlib.suppress(zmq.ZMQError):
            self._send_frames([identity, wire.encode(body, request_id)])

    # Who leaves

    def forget(self, peer: Peer) -> None:
        """Keep for a while what a device that is lost may come back for."""
        for key in self.peers.part(peer):
            self.answers.leave(key)

    def has_silent_peers(self) -> bool:
        """Look at all who are connected: whether somebody would be taken for lost now."""
        for peer in self.peers.all():
            peer.heartbeat.look()
        return any(peer.heartbeat.is_dead for peer in self.peers.all())

    def sweep(self) -> None:
        """Part with those who are silent or may no longer come, and with what nobody wants."""
        for peer in self.peers.all():
            if not self._door.lets_in(peer.owner.device_key):
                self._shut_out(peer)
            elif peer.heartbeat.is_dead:
                self.forget(peer)
        self.answers.sweep()
        self._door.meter.save()

    def _shut_out(self, peer: Peer) -> None:
        for key in self.peers.part(peer):
            self.answers.cancel(key)
        self._send(peer.identity, SHUT_OUT)

    def note_bad(self) -> None:
        """Count what was no message, and say so less and less often."""
        self.num_bad_messages += 1
        if self.num_bad_messages & (self.num_bad_messages - 1) == 0:  # 1, 2, 4, 8, ...
            _log.warning("%d messages were no messages of this protocol", self.num_bad_messages)
