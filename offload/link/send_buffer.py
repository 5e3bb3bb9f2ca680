"""Send buffer: the cloud's end of one answer, what was written and what is not yet taken.

Positions count Deltas from 0. The device allows the cloud to go up to a position; it moves on as
the reader takes pieces, so that a slow reader stops its own answer and no other. What the reader
has not yet taken is kept, and said again to a device that comes back over a new connection.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable

from offload.errors import CloudFailed, RequestError
from offload.link.failures import to_failure
from offload.link.message_bodies import AnyBody, Deltas, End, Failure, PackedDelta, Reading
from offload.link.wire import estimated_bytes
from offload.messages import Finish

Send = Callable[[AnyBody], bool]

_RETRY_S = 0.005
_BATCH_BYTES = 32 * 1024


class SendBuffer:
    """Send buffer of one answer: keeps pieces until they are taken, several in one message.

    `send` returns False while the connection has no room. A piece leaves at once if none left in
    the last `batch_s`, else together with others after that time; 0 turns batching off.
    """

    def __init__(self, *, window: int, batch_s: float) -> None:
        self._window = window
        self._batch_s = batch_s
        self._kept: deque[PackedDelta] = deque()
        self._first = 0  # the position of the oldest piece kept
        self._sent = 0  # the position after the last piece sent on this connection
        self._until = window
        self._final: Finish | Failure | None = None
        self._send: Send | None = None
        self._room = asyncio.Event()
        self._room.set()
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._left_s = self._loop.time() - batch_s
        self._delivered = False
        # When the device was lost or had everything; None while there is somebody to talk to.
        self.alone_since_s: float | None = self._left_s
        self.blocked_since_s: float | None = None  # when the reader stopped taking

    async def room(self) -> None:
        """Wait until the device allows another piece."""
        await self._room.wait()

    def push(self, piece: PackedDelta) -> None:
        """Take the next piece, and send it now or with others; after the end it is dropped."""
        if self._final is not None:
            return
        self._kept.append(piece)
        self._mark_room()
        wait_s = self._left_s + self._batch_s - self._loop.time()
        if wait_s <= 0:
            self._flush()
        else:
            self._flush_in(wait_s)

    def tell(self, news: Reading) -> None:
        """Say how far the prompt has been read, if anybody listens and nothing was written yet."""
        if self._send is not None and self._final is None and not self._produced:
            self._send(news)  # where there is no room for it, the next one will do

    def finish(self, final: Finish | Failure, *, drop_unsent: bool = False) -> None:
        """Take the end of the answer; only the first counts."""
        if self._final is not None:
            return
        self._final = final
        if drop_unsent:
            self._drop_unsent()
        self._flush()

    def allow(self, until: int) -> None:
        """Let pieces below `until` go; those the reader has taken are forgotten."""
        # Never more than a window ahead of what was sent, whatever the device may claim.
        self._until = max(self._until, min(until, self._sent + self._window))
        while self._kept and self._first < min(self._until - self._window, self._sent):
            self._kept.popleft()
            self._first += 1
        self._mark_room()

    def attach(self, send: Send, received: int) -> bool:
        """Go on from a position over a new connection; False where that is no longer kept."""
        if not self._first <= received <= self._produced:
            return False
        self._send, self._sent, self._delivered = send, received, False
        self.alone_since_s = None
        self._flush()
        return True

    def detach(self) -> None:
        """The connection is lost; go on collecting."""
        self._send = None
        self._delivered = False
        self.alone_since_s = self._loop.time()

    @property
    def is_heard(self) -> bool:
        """Whether all was sent, the end included."""
        return self._delivered

    @property
    def _produced(self) -> int:
        return self._first + len(self._kept)

    def _mark_room(self) -> None:
        if self._produced < self._until:
            self._room.set()
            self.blocked_since_s = None
        else:
            self._room.clear()
            self.blocked_since_s = self._loop.time()

    def _flush_in(self, seconds: float) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(seconds, self._flush)

    def _drop_unsent(self) -> None:
        while self._produced > self._sent:
            self._kept.pop()

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        try:
            self._send_all()
        except RequestError as error:  # an engine that said what msgpack cannot hold
            self._drop_unsent()
            self._final = to_failure(
                CloudFailed(f"the cloud's engine cannot be heard ({error}); ask again")
            )
            self._send_all()

    def _send_all(self) -> None:
        while self._send is not None and self._sent < self._produced:
            batch = self._batch()
            if not self._send(Deltas(self._sent, batch)):
                self._flush_in(_RETRY_S)
                return
            self._sent += len(batch)
            self._left_s = self._loop.time()
        if self._send is not None and self._final is not None and not self._delivered:
            final = self._final
            end = End(self._sent, final) if isinstance(final, Finish) else final
            if self._send(end):
                self._delivered, self.alone_since_s = True, self._loop.time()
            else:
                self._flush_in(_RETRY_S)

    def _batch(self) -> tuple[PackedDelta, ...]:
        batch: list[PackedDelta] = []
        size = 0
        for piece in itertools.islice(self._kept, self._sent - self._first, None):
            size += estimated_bytes(piece)
            if batch and size > _BATCH_BYTES:
                break
            batch.append(piece)
        return tuple(batch)
