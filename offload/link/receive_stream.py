"""Receive stream: the device's end of one answer, what has arrived and what has been read."""

from __future__ import annotations

import asyncio

import msgspec

from backbone.errors import NearfarError
from offload.answer_bounds import AnswerBounds
from offload.errors import CloudFailed
from offload.link import wire
from offload.link.failures import to_error
from offload.link.message_bodies import AnyBody, Deltas, End, Failure, Reading, Resume
from offload.link.wire import Envelope, WireError, unpack_delta
from offload.messages import Delta, Finish, Request
from offload.reading import Progress


class ReceiveStream:
    """Receive stream of one request: takes what arrives and hands it out in order.

    `progress` is told how far the cloud has read the prompt.
    """

    def __init__(
        self,
        request: Request,
        *,
        window: int,
        grace_s: float,
        progress: Progress | None = None,
    ) -> None:
        self._request = request
        self._progress = progress
        self.id = request.id
        self.bytes_sent = self.bytes_received = 0
        self.answered = False  # the cloud is done with the request
        self.num_received = 0
        self.until = window
        self._window = window
        self._num_taken = 0
        self._ended = False
        self._bounds = AnswerBounds(request)
        self._items: asyncio.Queue[Delta | Finish | NearfarError] = asyncio.Queue()
        self._timer: asyncio.TimerHandle | None = None
        self._began_s = asyncio.get_running_loop().time()
        if request.deadline_s is not None:
            self._expire_after(request.deadline_s + grace_s)

    def take(self, envelope: Envelope) -> None:
        """Take one message; a damaged one, a gap before it, or too much fails the request."""
        self.bytes_received += envelope.size_bytes
        try:
            self._take(wire.open_body(envelope))
        except WireError as error:
            self.fail(CloudFailed(f"the cloud's answer is damaged ({error}); ask again"))
        except CloudFailed as error:
            self.fail(error)

    def fail(self, error: NearfarError) -> None:
        """End the answer with an error, unless it has ended."""
        self._end(error)

    def renewal(self) -> bytes:
        """Return what to say over a new connection: where to go on, or the request once more."""
        if self.num_received:
            return wire.encode(Resume(self.num_received, self.until), self.id)
        request = self._request
        if request.deadline_s is not None:
            passed_s = asyncio.get_running_loop().time() - self._began_s
            left_s = max(0.001, request.deadline_s - passed_s)
            request = msgspec.structs.replace(request, deadline_s=left_s)
        return wire.encode(request, self.id)

    def close(self) -> None:
        """Take nothing more."""
        self._ended = True
        if self._timer is not None:
            self._timer.cancel()

    async def next(self) -> Delta | Finish:
        """Return the next item. Raises what ended the answer."""
        item = await self._items.get()
        if isinstance(item, NearfarError):
            raise item
        self._num_taken += 1
        return item

    def new_credit(self) -> int | None:
        """Return the position up to which the cloud may go now, where it is worth telling."""
        if self._ended or self.until - self._num_taken > self._window // 2:
            return None
        self.until = self._num_taken + self._window
        return self.until

    @property
    def has_ended(self) -> bool:
        return self._ended

    def _expire_after(self, seconds: float) -> None:
        # Should the cloud not keep the deadline, we do.
        finish = Finish(reason="deadline")
        self._timer = asyncio.get_running_loop().call_later(seconds, self._end, finish)

    def _take(self, body: AnyBody) -> None:
        if isinstance(body, Deltas):
            if body.first != self.num_received:
                raise WireError(f"piece {self.num_received} is missing")
            self.num_received += len(body.items)
            if self.num_received > self.until:
                raise WireError("more was sent than was allowed")
            for packed in body.items:
                self._put(self._bounds.take(unpack_delta(packed)))
        elif isinstance(body, Reading):
            self._hear(body)
        elif isinstance(body, End):
            if body.num_pieces != self.num_received:
                raise WireError(f"{body.num_pieces} pieces were said, {self.num_received} arrived")
            self.answered = True
            self._end(self._bounds.end(body.finish))
        elif isinstance(body, Failure):
            self.answered = True
            self._end(to_error(body))

    def _hear(self, news: Reading) -> None:
        if self._progress is not None and not self.num_received and not self._ended:
            self._progress(min(news.num_read, news.num_tokens), news.num_tokens, "cloud")

    def _put(self, delta: Delta) -> None:
        if not self._ended:
            self._items.put_nowait(delta)

    def _end(self, item: Finish | NearfarError) -> None:
        if not self._ended:
            self._items.put_nowait(item)
        self.close()
