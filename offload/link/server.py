"""Server of the link: any engine, served to many devices on one ROUTER socket."""

from __future__ import annotations

import asyncio
import logging

import zmq

from offload.engine import Engine
from offload.errors import SettingsError
from offload.link.access import Access, ZapHandler
from offload.link.health import HeartbeatTimes
from offload.link.invites import InviteList
from offload.link.keys import DeviceList, KeyPair, require_curve
from offload.link.message_handler import MessageHandler
from offload.link.quota import QuotaMeter
from offload.link.running_requests import AnswerLimits
from offload.link.silent_connections import SilentConnections
from offload.link.socket_pump import Pump
from offload.link.sockets import listen

_DRAIN_LOOK_S = 0.02
_LINGER_S = 1.0

_log = logging.getLogger(__name__)


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
        meter: QuotaMeter | None = None,
        limits: AnswerLimits | None = None,
        peer_silence_s: float = 2.0,
        trusts_asker: bool = False,
    ) -> None:
        """`trusts_asker` is for a server of our own in front of this one; see ForwardedRequest."""
        remedy = "give the cloud a pair of keys, or bind 127.0.0.1"
        require_curve(endpoint, has_keys=keys is not None, remedy=remedy)
        self._engine = engine
        self._asked_endpoint = endpoint
        self._endpoint: str | None = None
        self._keys = keys
        self._access = Access(devices=devices, invites=invites, meter=meter)
        self._limits = limits or AnswerLimits()
        self.times = HeartbeatTimes(dead_after_s=peer_silence_s)
        self._trusts_asker = trusts_asker
        self._closed = asyncio.Event()

    @property
    def endpoint(self) -> str:
        """The address that devices can reach, its port filled in. Needs `start`."""
        assert self._endpoint is not None, "start() binds the endpoint"
        return self._endpoint

    @property
    def public_key(self) -> str:
        """The CURVE key that devices must know, empty where there is none."""
        return self._keys.public if self._keys is not None else ""

    @property
    def num_in_flight(self) -> int:
        """How many requests are being answered now."""
        return self.handler.answers.num_running

    @property
    def num_bad_messages(self) -> int:
        """How many messages were none of this protocol."""
        return self.handler.num_bad_messages

    @property
    def num_silent_connections(self) -> int:
        """How many connections have said nothing yet."""
        return self._silent.num_silent

    async def start(self) -> None:
        """Bind and begin to serve. Raises SettingsError where the endpoint cannot be bound."""
        # A context of its own, since there can be only one ZAP handler in each.
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._zap_handler: ZapHandler | None = None
        if self._keys is not None:
            self._zap_handler = ZapHandler(self._context, self._access.lets_in)
        try:
            socket = listen(self._context, self._asked_endpoint, self._keys)
        except SettingsError:
            if self._zap_handler is not None:
                self._zap_handler.close()
            self._context.term()
            raise
        self._silent = SilentConnections(socket, self._limits.max_silent_connections)
        self.pump = Pump(socket, self.receive)
        self._endpoint = socket.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\0")
        self.handler = MessageHandler(
            self._engine,
            self._access,
            self._limits,
            self.times,
            self.pump.send,
            trusts_asker=self._trusts_asker,
        )
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
        """Take nothing new, let what somebody reads come to its end and be heard, and close."""
        if self._endpoint is not None:
            self.handler.takes_requests = False
            loop = asyncio.get_running_loop()
            end_s = loop.time() + timeout_s
            answers = self.handler.answers
            answers.end_unheard()
            while not answers.all_heard and loop.time() < end_s:
                await asyncio.sleep(_DRAIN_LOOK_S)
                answers.end_unheard()
        await self.aclose()

    async def aclose(self) -> None:
        """Stop every answer, wait until the engine has let go of them, close the socket."""
        if self._endpoint is None or self._closed.is_set():
            return
        self._closed.set()
        self._sweeper.cancel()
        await self.handler.answers.aclose()
        self._access.meter.close()
        self._silent.close()
        # What was said last may still be on its way out when a drain ends.
        self.pump.close(linger_s=0.0 if self.handler.takes_requests else _LINGER_S)
        if self._zap_handler is not None:
            self._zap_handler.close()
        await asyncio.to_thread(self._context.term)

    def receive(self, frames: list[zmq.Frame]) -> None:
        if len(frames) != 2:  # the first is the connection's identity
            self.handler.note_bad()
            return
        self._silent.heard(frames[-1])
        identity, message = (frame.bytes for frame in frames)
        device_key = _device_key(frames[-1])
        assert device_key or self._keys is None, "the ZAP handler names whom it lets in"
        self.handler.take(identity, device_key, message)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(self.times.look_every_s)
            try:
                if self.handler.has_silent_peers():
                    self.pump.drain()  # perhaps it was we who did not listen
                self.handler.sweep()
            except Exception:
                _log.exception("sweeping failed; it will be tried again")


def _device_key(frame: zmq.Frame) -> str:
    try:
        return str(frame.get("User-Id"))
    except zmq.ZMQError:
        return ""  # no keys on this machine's own endpoint
