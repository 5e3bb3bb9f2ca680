"""Sockets of the link: the device's DEALER and the cloud's ROUTER, with all their options."""

from __future__ import annotations

from dataclasses import dataclass

import zmq

from backbone.errors import cause
from offload.errors import SettingsError
from offload.link import wire
from offload.link.keys import KeyPair, is_key, require_curve

HANDSHAKE_S = 2.0  # after which libzmq itself parts with who says nothing
# libzmq counts the head and what CURVE adds; what is just too long is refused in words before.
MAX_FRAME_BYTES = wire.MAX_MESSAGE_BYTES + 1024


@dataclass(frozen=True, kw_only=True)
class Address:
    """Address of a cloud, with the keys for it; on this machine both keys may be None."""

    endpoint: str
    server_key: str | None = None
    device_keys: KeyPair | None = None

    def __post_init__(self) -> None:
        both = self.server_key is not None and self.device_keys is not None
        if not both and (self.server_key is not None or self.device_keys is not None):
            raise SettingsError("the server's key and the device's keys go together; give both")
        if self.server_key is not None and not is_key(self.server_key):
            raise SettingsError("the server's key is not 40 characters of Z85; copy it again")
        remedy = "join it with `nearfar link join`"
        require_curve(self.endpoint, has_keys=both, remedy=remedy)


def dial(address: Address) -> tuple[zmq.Socket[bytes], zmq.Socket[bytes]]:
    """Return a DEALER that is connecting, and the socket that tells how it goes.

    Raises SettingsError for an address that is none.
    """
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 0)
    # IMMEDIATE stays off: with it, a disconnect between two frames of one message aborts the
    # process (an assertion in libzmq's fq.cpp). What it is for, not to queue for a peer that is
    # gone, a Connection sees to: it says nothing before the handshake, and closes when it is lost.
    socket.setsockopt(zmq.IMMEDIATE, 0)
    socket.setsockopt(zmq.SNDHWM, 1000)
    socket.setsockopt(zmq.RCVHWM, 10_000)
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES)
    socket.setsockopt(zmq.RECONNECT_IVL, 50)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, 500)
    socket.setsockopt(zmq.HANDSHAKE_IVL, int(1000 * HANDSHAKE_S))
    socket.setsockopt(zmq.IPV6, 1)
    if address.server_key is not None and address.device_keys is not None:
        socket.curve_serverkey = address.server_key.encode()
        socket.curve_publickey = address.device_keys.public.encode()
        socket.curve_secretkey = address.device_keys.secret.encode()
    monitor = socket.get_monitor_socket()
    try:
        socket.connect(address.endpoint)
    except zmq.ZMQError as error:
        socket.disable_monitor()
        monitor.close(linger=0)
        socket.close(linger=0)
        raise SettingsError(
            f"cloud.url is {address.endpoint!r}, which is no address ({cause(error)}); "
            "write tcp://HOST:PORT"
        ) from None
    return socket, monitor


def listen(
    context: zmq.Context[zmq.Socket[bytes]], endpoint: str, keys: KeyPair | None
) -> zmq.Socket[bytes]:
    """Return a bound ROUTER. Raises SettingsError where the endpoint cannot be bound."""
    socket = context.socket(zmq.ROUTER)
    _set_server_options(socket, keys)
    # Asked for always, it would turn 127.0.0.1 into its IPv6 form.
    socket.setsockopt(zmq.IPV6, int("[" in endpoint))
    try:
        socket.bind(endpoint)
    except zmq.ZMQError as error:
        socket.close(linger=0)
        remedy = "choose another address or port" if "://" in endpoint else "write tcp://HOST:PORT"
        raise SettingsError(f"cannot listen at {endpoint} ({cause(error)}); {remedy}") from None
    return socket


def _set_server_options(socket: zmq.Socket[bytes], keys: KeyPair | None) -> None:
    socket.setsockopt(zmq.LINGER, 0)
    # Without MANDATORY a ROUTER drops what it cannot deliver and says nothing.
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES)
    socket.setsockopt(zmq.SNDHWM, 1000)  # for each peer
    socket.setsockopt(zmq.RCVHWM, 1000)
    # Closes the connection of a peer that stops in the handshake or vanishes without a word.
    socket.setsockopt(zmq.HANDSHAKE_IVL, 5000)
    socket.setsockopt(zmq.HEARTBEAT_IVL, 2000)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 6000)
    if keys is not None:
        socket.curve_server = True
        socket.curve_publickey = keys.public.encode()
        socket.curve_secretkey = keys.secret.encode()
        socket.setsockopt(zmq.ZAP_DOMAIN, b"nearfar")
