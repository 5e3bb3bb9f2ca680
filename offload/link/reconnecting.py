"""Reconnecting link: the connection in use, and a new one after each loss."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable

from backbone.errors import NearfarError
from offload.errors import CloudUnreachable, KeyRefused, LinkError
from offload.link.backoff import Backoff
from offload.link.connection import Connection
from offload.link.health import HeartbeatTimes, RoundTrips
from offload.link.message_bodies import Ready
from offload.link.sockets import Address
from offload.link.wire import Envelope

_FIRST_ATTEMPT_S = 0.5


class Reconnecting:
    """Reconnecting link: connects when asked to, and after a loss while `is_needed` says so.

    `on_open` is told each time, and whether the cloud is another run that knows nothing of what
    was asked; `on_lost` when no new connection came within `patience_s`.
    """

    def __init__(
        self,
        address: Address,
        *,
        device: str,
        patience_s: float,
        times: HeartbeatTimes,
        is_needed: Callable[[], bool],
        on_message: Callable[[Envelope], None],
        on_open: Callable[[bool], None],
        on_lost: Callable[[NearfarError], None],
    ) -> None:
        self.address, self.times = address, times
        self.ready: Ready | None = None
        self.trips: RoundTrips | None = None  # of the last connection, open or lost
        self.has_failed = False  # the last attempt failed, or the last connection was lost
        self._device, self._session = device, uuid.uuid4().hex
        self._patience_s = patience_s
        self._is_needed, self._on_message = is_needed, on_message
        self._on_open, self._on_lost = on_open, on_lost
        self.connection: Connection | None = None
        self.opening: Connection | None = None
        self._attempt: asyncio.Task[None] | None = None
        self._recovery: asyncio.Task[None] | None = None
        self._gone_bytes_sent = self._gone_bytes_received = 0  # of connections gone by
        self._closed = False

    @property
    def is_open(self) -> bool:
        return self.connection is not None and self.connection.is_open

    @property
    def bytes_sent(self) -> int:
        return self._gone_bytes_sent + (self.connection.bytes_sent if self.connection else 0)

    @property
    def bytes_received(self) -> int:
        now = self.connection.bytes_received if self.connection else 0
        return self._gone_bytes_received + now

    async def connect(self, timeout_s: float) -> Connection:
        """Return the open connection, making one where there is none.

        Those who ask at the same time share one attempt, so that none waits for another's to
        fail before its own. Raises CloudUnreachable, KeyRefused or CloudFailed.
        """
        loop = asyncio.get_running_loop()
        end_s = loop.time() + timeout_s
        while not self.is_open:
            if self._closed:
                raise CloudUnreachable("this link is closed; make a new one")
            is_ours = self._attempt is None or self._attempt.done()
            if self._attempt is None or self._attempt.done():
                self._attempt = asyncio.create_task(self._open(end_s - loop.time()))
                self._attempt.add_done_callback(_seen)
            try:
                await self._share(self._attempt, None if is_ours else end_s - loop.time())
            except CloudUnreachable as error:
                if is_ours or loop.time() >= end_s:
                    raise CloudUnreachable(str(error)) from None
        assert self.connection is not None, "an open line has a connection"
        return self.connection

    def send(self, message: bytes) -> int:
        """Send now and return the bytes; where it cannot leave, the connection is no good."""
        if self.connection is None or not self.connection.is_open:
            return 0
        try:
            return self.connection.send_message(message)
        except CloudUnreachable as error:
            self.connection.lose(error)
            return 0

    def close(self) -> None:
        """Close for good."""
        self._closed = True
        if self._recovery is not None:
            self._recovery.cancel()
        if self.opening is not None:  # not cancelled: those who share the attempt were not
            self.opening.lose(CloudUnreachable("this link is closed; make a new one"))
        if self.connection is not None:
            self.connection.close()

    async def _share(self, attempt: asyncio.Task[None], timeout_s: float | None) -> None:
        try:
            await asyncio.wait_for(asyncio.shield(attempt), timeout_s)
        except asyncio.TimeoutError:
            raise CloudUnreachable(
                f"{self.address.endpoint} did not answer in time; look at `nearfar link ping`"
            ) from None

    async def _open(self, timeout_s: float) -> None:
        self._retire()
        self.opening = connection = Connection(
            self.address,
            device=self._device,
            session=self._session,
            times=self.times,
            on_message=self._on_message,
            on_lost=self._lost,
        )
        self.has_failed = True  # until it succeeds
        ready = await connection.open(timeout_s)
        is_restarted = self.ready is not None and self.ready.instance != ready.instance
        self.connection, self.ready, self.has_failed = connection, ready, False
        self.trips = connection.trips
        self._on_open(is_restarted)

    def _retire(self) -> None:
        self._gone_bytes_sent, self._gone_bytes_received = self.bytes_sent, self.bytes_received
        self.connection = None

    def _lost(self, error: LinkError) -> None:
        self.has_failed = True
        if self._closed or self._patience_s <= 0 or isinstance(error, KeyRefused):
            self._on_lost(error)
        elif self._is_needed() and (self._recovery is None or self._recovery.done()):
            self._recovery = asyncio.create_task(self._recover(error))

    async def _recover(self, error: LinkError) -> None:
        """Connect again for the sake of what is needed, until patience ends."""
        loop = asyncio.get_running_loop()
        end_s = loop.time() + self._patience_s
        attempt_s = _FIRST_ATTEMPT_S
        for wait_s in Backoff():
            left_s = end_s - loop.time()
            if left_s <= 0 or not self._is_needed():
                break
            try:
                # Short at first: a handshake that the network swallowed never comes to an end.
                await self.connect(min(left_s, attempt_s))
                return
            except CloudUnreachable:
                await asyncio.sleep(min(wait_s, max(0.0, end_s - loop.time())))
                attempt_s *= 2
            except NearfarError as refusal:
                self._on_lost(refusal)
                return
        self._on_lost(error)


def _seen(attempt: asyncio.Task[None]) -> None:
    if not attempt.cancelled():
        attempt.exception()  # told to those who wait; perhaps nobody does any more
