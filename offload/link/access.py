"""Access to the cloud: the ZAP handler, and which device may connect, ask and join."""

from __future__ import annotations

import logging
from collections.abc import Callable

import zmq
from zmq.utils import z85

from offload.errors import SettingsError
from offload.link.failures import KEY, LIMIT
from offload.link.invites import InviteList
from offload.link.keys import DeviceList
from offload.link.message_bodies import Failure, Join, Joined
from offload.link.quota import Quota, QuotaMeter
from offload.link.socket_pump import Pump

_log = logging.getLogger(__name__)


class Access:
    """Access by key: who may connect, ask and join.

    The empty key is that of this machine's own endpoint without keys.
    """

    def __init__(
        self,
        *,
        devices: DeviceList | None = None,
        invites: InviteList | None = None,
        meter: QuotaMeter | None = None,
    ) -> None:
        self._devices = devices if devices is not None else DeviceList()
        self._invites = invites if invites is not None else InviteList()
        self.meter = meter if meter is not None else QuotaMeter(Quota())

    def lets_in(self, key: str) -> bool:
        """Whether this key may connect: a device's, or that of an invite still good."""
        return self.is_device(key) or self._is_guest(key)

    def is_device(self, key: str) -> bool:
        """Whether this key may ask; a list that cannot be read lets no one in."""
        try:
            return not key or self._devices.find(key) is not None
        except (OSError, SettingsError) as error:
            _log.error("no device is let in: %s", error)
            return False

    def _is_guest(self, key: str) -> bool:
        try:
            return self._invites.find(key) is not None
        except (OSError, SettingsError) as error:
            _log.error("no invite is taken: %s", error)
            return False

    def why_not(self, key: str) -> Failure | None:
        """Say why this key may not ask now."""
        if not self.is_device(key):
            return Failure(KEY, "an invite is for joining; run `nearfar link join` first")
        wait = self.meter.why_not(key)
        return Failure(LIMIT, wait.why, wait.seconds) if wait else None

    def join(self, guest_key: str, wish: Join) -> Joined | Failure:
        """Use an invite up and let its device in."""
        pending = self._invites.take(guest_key)
        if pending is None:
            return Failure(KEY, "this invite was used or has expired; ask for a new one")
        try:
            self._devices.add(pending.name, wish.public_key)
        except SettingsError as error:
            self._invites.add(pending)
            return Failure(KEY, str(error))
        return Joined(pending.name)


ENDPOINT = "inproc://zeromq.zap.01"


class ZapHandler:
    """ZAP handler: tells libzmq which CURVE connections to take; made before the bind.

    The key that is let in becomes the `User-Id` of every message of that connection.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], allows: Callable[[str], bool]):
        self._allows = allows
        self.num_refused = 0
        socket = context.socket(zmq.REP)
        socket.bind(ENDPOINT)
        self._pump = Pump(socket, self._answer)

    def close(self) -> None:
        """Stop answering; the sockets it guards must be closed before."""
        self._pump.close()

    def _answer(self, frames: list[zmq.Frame]) -> None:
        version, request_id, _domain, _address, _identity, mechanism, *credentials = (
            frame.bytes for frame in frames
        )
        key = z85.encode(credentials[0]).decode() if len(credentials) == 1 else ""
        if mechanism == b"CURVE" and key and self._allows(key):
            verdict = [b"200", b"OK", key.encode()]
        else:
            self.num_refused += 1
            verdict = [b"400", b"unknown key", b""]
        self._pump.send([version, request_id, *verdict, b""])
