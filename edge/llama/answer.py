"""One answer while it is written: its text, its tokens, its seconds, and when it must end."""

from __future__ import annotations

import threading
import time

from backbone.text_stream import TextStream
from offload.messages import Confidence, Delta, Finish, FinishReason, Request, Route, Usage


class Patience:
    """Whether anybody still waits: cancelled by the reader, or past the deadline."""

    def __init__(
        self, request: Request, cancelled: threading.Event | None, received: float
    ) -> None:
        self._cancelled = cancelled
        self._until = None if request.deadline_s is None else received + request.deadline_s

    def ended(self) -> FinishReason | None:
        """Return why the work must end now, or None."""
        if self._cancelled is not None and self._cancelled.is_set():
            return "cancelled"
        if self._until is not None and time.monotonic() >= self._until:
            return "deadline"
        return None


class Answer:
    """Turns chosen tokens into Deltas and counts what they took."""

    def __init__(self, request: Request, *, num_prompt: int, queue_s: float) -> None:
        self._max_tokens = request.sampling.max_tokens
        self._stream = TextStream(request.sampling.stop)
        self._num_prompt = num_prompt
        self._queue_s = queue_s
        self.num_tokens = 0  # written so far
        self._started = self._prefilled = time.monotonic()

    def prefilled(self) -> None:
        """Note that the prompt has been read."""
        self._prefilled = time.monotonic()

    def take(self, token: int, piece: bytes, confidence: Confidence) -> Delta:
        """Add one token and return its Delta; its text may be held back for the next."""
        index, self.num_tokens = self.num_tokens, self.num_tokens + 1
        return Delta(
            text=self._stream.push(piece),
            index=index,
            token_ids=(token,),
            confidence=(confidence,),
            source="edge",
        )

    def ended(self) -> FinishReason | None:
        """Return whether the answer itself is over: a stop string, or its last token."""
        if self._stream.stopped:
            return "stop"
        return "length" if self.num_tokens >= self._max_tokens else None

    def rest(self) -> Delta | None:
        """Return the text still held back, as a Delta without tokens."""
        text = self._stream.flush()
        return Delta(text=text, index=self.num_tokens, source="edge") if text else None

    def finish(
        self, reason: FinishReason, *, dropped_tokens: int = 0, error: str | None = None
    ) -> Finish:
        """Return the end of the answer."""
        usage = Usage(
            prompt_tokens=self._num_prompt,
            completion_tokens=self.num_tokens,
            queue_s=self._queue_s,
            prefill_s=self._prefilled - self._started,
            decode_s=time.monotonic() - self._prefilled,
        )
        route = Route(served_by="edge", reason="edge_only")
        return Finish(
            reason=reason, usage=usage, route=route, dropped_tokens=dropped_tokens, error=error
        )
