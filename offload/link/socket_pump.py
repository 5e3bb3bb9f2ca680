"""Socket pump: joins a ZeroMQ socket to the event loop, reading by callback, sending or not.

zmq.asyncio queues a message that cannot be sent now behind all others of the socket, so that one
slow peer of a ROUTER would stop every other. Here the caller learns it and waits for that peer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import zmq

_BURST = 64  # messages read before the loop gets its turn
_NOW, _NOW_MORE = int(zmq.NOBLOCK), int(zmq.NOBLOCK | zmq.SNDMORE)
_POLLIN = int(zmq.POLLIN)


class Pump:
    """Socket pump: reads a socket in the loop that is running when it is made."""

    def __init__(
        self, socket: zmq.Socket[bytes], on_message: Callable[[list[zmq.Frame]], None]
    ) -> None:
        self._socket = socket
        self.on_message = on_message
        self._loop = asyncio.get_running_loop()
        self._fd = int(socket.getsockopt(zmq.FD))
        self._again: asyncio.Handle | None = None
        self._closed = False
        self._loop.add_reader(self._fd, self.drain)
        self._wake()

    def send(self, frames: Sequence[bytes]) -> bool:
        """Send a message, or return False where the peer's queue is full or nobody is connected.

        Raises zmq.ZMQError (EHOSTUNREACH) where a ROUTER does not know the peer.
        """
        try:
            # Once the first frame is taken the others are too: a message leaves whole or not.
            for frame in frames[:-1]:
                self._socket.send(frame, _NOW_MORE)
            self._socket.send(frames[-1], _NOW)
        except zmq.Again:
            return False
        finally:
            # Sending may swallow the descriptor's signal that something has arrived.
            if int(self._socket.getsockopt(zmq.EVENTS)) & _POLLIN:
                self._wake()
        return True

    def drain(self) -> None:
        """Deliver what has arrived."""
        for _ in range(_BURST):
            # Asked before, since an exception for each empty look costs more than the look.
            if self._closed or not int(self._socket.getsockopt(zmq.EVENTS)) & _POLLIN:
                return
            frames = [self._socket.recv(_NOW, copy=False)]
            while frames[-1].more:
                frames.append(self._socket.recv(_NOW, copy=False))
            try:
                self.on_message(frames)
            except BaseException:
                self._wake()  # the loop reports it, and what waits behind is still read
                raise
        self._wake()

    def close(self, *, linger_s: float = 0.0) -> None:
        """Stop reading and close the socket; what is not sent after `linger_s` is dropped."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._fd)
        if self._again is not None:
            self._again.cancel()
        self._socket.close(linger=int(linger_s * 1000))

    def _wake(self) -> None:
        # The descriptor signals once for many events.
        if self._again is None and not self._closed:
            self._again = self._loop.call_soon(self._look_again)

    def _look_again(self) -> None:
        self._again = None
        self.drain()
