"""Decides who may connect: an in-memory ZAP handler (ZeroMQ RFC 27) in the server's event loop."""

from __future__ import annotations

from collections.abc import Callable

import zmq
from zmq.utils import z85

from offload.link.socket_pump import Pump

ENDPOINT = "inproc://zeromq.zap.01"


class ZapHandler:
    """Answers libzmq's question about each new CURVE connection; must stand before the bind.

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
