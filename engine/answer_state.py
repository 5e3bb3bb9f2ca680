"""Answer state: text, tokens and seconds of one answer as it is written, and when it must end."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from backbone.text_stream import TextStream
from offload.cancellation import Cancellation
from offload.messages import (
    Alternative,
    Confidence,
    Delta,
    Finish,
    FinishReason,
    PromptToken,
    Request,
    Route,
    Usage,
)
from offload.own_sampling import sampled


class Deadline:
    """Deadline of an answer: cancelled by the reader, or out of time."""

    def __init__(
        self, request: Request, cancelled: threading.Event | None, received: float
    ) -> None:
        self._cancelled = cancelled
        self._until = None if request.deadline_s is None else received + request.deadline_s

    @property
    def stop_at(self) -> int:
        """Return the address of a byte that is no longer 0 once the reader is gone; 0 without."""
        return self._cancelled.address if isinstance(self._cancelled, Cancellation) else 0

    def ended(self) -> FinishReason | None:
        """Return why the work must end now, or None."""
        if self._cancelled is not None and self._cancelled.is_set():
            return "cancelled"
        if self._until is not None and time.monotonic() >= self._until:
            return "deadline"
        return None


class AnswerState:
    """Answer state: turns chosen tokens into Deltas and counts what they took."""

    def __init__(
        self,
        request: Request,
        *,
        num_prompt: int,
        queue_s: float,
        stops: Sequence[str] = (),  # beside the request's own
    ) -> None:
        self._max_tokens = request.sampling.max_tokens
        self._sampled = sampled(request.sampling)
        self._stream = TextStream((*request.sampling.stop, *stops))
        self._num_prompt = num_prompt
        self.num_cached = 0  # of the prompt's tokens, not computed again
        self._queue_s = queue_s
        self._prompt_tokens: tuple[PromptToken, ...] = ()
        self.num_tokens = 0  # written so far
        self._started = self._prefilled = time.monotonic()

    def prefilled(self, prompt_tokens: tuple[PromptToken, ...] = ()) -> None:
        """Note that the prompt has been read, and what is to be told of it in the first Delta."""
        self._prefilled = time.monotonic()
        self._prompt_tokens = prompt_tokens

    def take(
        self,
        token: int,
        piece: bytes,
        confidence: Confidence,
        alternatives: tuple[Alternative, ...] = (),
    ) -> Delta:
        """Add one token and return its Delta; its text may be held back for the next."""
        index, self.num_tokens = self.num_tokens, self.num_tokens + 1
        return Delta(
            text=self._stream.push(piece),
            index=index,
            token_ids=(token,),
            confidence=(confidence,),
            alternatives=(alternatives,) if alternatives else (),
            prompt_tokens=self._tell_prompt(),
            source="edge",
        )

    def _tell_prompt(self) -> tuple[PromptToken, ...]:
        prompt_tokens, self._prompt_tokens = self._prompt_tokens, ()
        return prompt_tokens

    def ended(self) -> FinishReason | None:
        """Return whether the answer itself is over: a stop string, or its last token."""
        if self._stream.stopped:
            return "stop"
        return "length" if self.num_tokens >= self._max_tokens else None

    def rest(self) -> Delta | None:
        """Return what is still held back, as a Delta without tokens."""
        text, prompt_tokens = self._stream.flush(), self._tell_prompt()
        if not text and not prompt_tokens:
            return None
        return Delta(text=text, index=self.num_tokens, prompt_tokens=prompt_tokens, source="edge")

    def finish(
        self, reason: FinishReason, *, dropped_tokens: int = 0, error: str | None = None
    ) -> Finish:
        """Return the end of the answer."""
        usage = Usage(
            prompt_tokens=self._num_prompt,
            cached_tokens=self.num_cached,
            completion_tokens=self.num_tokens,
            queue_s=self._queue_s,
            prefill_s=self._prefilled - self._started,
            decode_s=time.monotonic() - self._prefilled,
        )
        route = Route(served_by="edge", reason="edge_only")
        return Finish(
            reason=reason,
            usage=usage,
            route=route,
            dropped_tokens=dropped_tokens,
            error=error,
            sampled=self._sampled,
        )
