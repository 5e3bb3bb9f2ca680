"""Silent connections of a ROUTER: those that have said nothing, of which only so many stay."""

from __future__ import annotations

import socket as sockets
from collections import OrderedDict

import zmq
from zmq.utils.monitor import parse_monitor_message

from offload.link.socket_pump import Pump

_EVENTS = zmq.Event.ACCEPTED | zmq.Event.DISCONNECTED


class SilentConnections:
    """Silent connections of a bound socket; where there are too many, the oldest is closed.

    libzmq closes one that does not finish its handshake only after seconds, and each holds a file
    of this process. One that has spoken counts no more, see `heard`.
    """

    def __init__(self, socket: zmq.Socket[bytes], max_silent: int) -> None:
        self._socket = socket
        self._max_silent = max_silent
        self._port = _port(socket)
        self._silent: OrderedDict[int, None] = OrderedDict()  # file descriptors, the oldest first
        self.num_closed = 0
        self._pump = Pump(socket.get_monitor_socket(_EVENTS), self._on_event)

    @property
    def num_silent(self) -> int:
        """How many connections have said nothing yet."""
        return len(self._silent)

    def heard(self, frame: zmq.Frame) -> None:
        """Count the connection that this frame came by as one that has spoken."""
        if self._silent:
            self._silent.pop(int(frame.get(zmq.SRCFD)), None)

    def close(self) -> None:
        """Stop watching; before the watched socket is closed."""
        self._socket.disable_monitor()
        self._pump.close()

    def _on_event(self, frames: list[zmq.Frame]) -> None:
        event = parse_monitor_message([frame.bytes for frame in frames])
        descriptor = event["value"]
        self._silent.pop(descriptor, None)
        if event["event"] == zmq.Event.ACCEPTED:
            self._silent[descriptor] = None
            while len(self._silent) > self._max_silent:
                oldest, _ = self._silent.popitem(last=False)
                self.num_closed += _shut(oldest, self._port)


def _port(socket: zmq.Socket[bytes]) -> int:
    endpoint = socket.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\0")
    port = endpoint.rpartition(":")[2]
    return int(port) if port.isdigit() else 0


def _shut(descriptor: int, port: int) -> bool:
    """Shut a connection that libzmq owns, so that libzmq finds it ended and closes it itself.

    Its number may have become another file's since; only a connection of our port is touched.
    """
    try:
        connection = sockets.socket(fileno=descriptor)
    except OSError:
        return False
    try:
        if connection.getsockname()[1] != port:
            return False
        connection.shutdown(sockets.SHUT_RDWR)
        return True
    except (OSError, IndexError, TypeError):
        return False
    finally:
        connection.detach()
