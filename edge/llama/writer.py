"""One answer in one seat: the prompt is read, and then tokens are written until it ends."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from backbone.errors import NearfarError
from edge.llama.answer import Answer, Patience
from edge.llama.cache import KvCache
from edge.llama.lookup import Lookup
from edge.llama.prompt import PromptWriter
from edge.llama.sampler import Gauge, Sampler
from edge.llama.seats import Seat
from edge.llama.steps import Chosen, steps
from edge.llama.vocabulary import Vocabulary
from edge.llama.window import Pins
from offload.engine import StateObserver
from offload.errors import ContextLengthError
from offload.messages import Delta, Finish, FinishReason, Request

_DONE = object()


class Writer:
    """Writes answers of one model; it keeps nothing between them."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        prompts: PromptWriter,
        *,
        max_model_len: int,
        max_draft_tokens: int,
    ) -> None:
        self._vocabulary = vocabulary
        self._prompts = prompts
        self._max_model_len = max_model_len
        self._max_draft_tokens = max_draft_tokens

    def write(
        self,
        seat: Seat,
        request: Request,
        prompt: list[int],
        answer: Answer,
        patience: Patience,
        *,
        observer: StateObserver | None = None,
    ) -> Iterator[Delta | Finish]:
        """Yield a Delta per token and a Finish; show each token's hidden state to `observer`.

        Raises ContextLengthError where what must stay does not fit, RequestError for a JSON
        schema that cannot be followed, and CheckpointError for a model whose output is no number.
        """
        pins = self.pins(seat.cache, request, prompt)
        seat.cache.keep_hidden = observer is not None
        vocabulary = self._vocabulary
        with Sampler(request.sampling, vocabulary, Gauge(vocabulary.num_tokens)) as sampler:
            seat.pace.before_prompt()
            ended = self._read(seat.cache, prompt, pins, patience)
            answer.prefilled()
            if ended is not None:
                yield answer.finish(ended)
                return
            sampler.remember(prompt)
            tokens = steps(seat.cache, sampler, pins, seat.pace, self.make_lookup(prompt))
            with contextlib.closing(tokens):
                yield from self._decode(seat.cache, answer, tokens, patience, observer)

    def make_lookup(self, prompt: list[int]) -> Lookup | None:
        """Return what drafts tokens for an answer, None where drafts are off."""
        if self._max_draft_tokens == 0:
            return None
        return Lookup(prompt, max_draft=self._max_draft_tokens)

    def pins(self, cache: KvCache, request: Request, prompt: list[int]) -> Pins:
        """Return what of a prompt must stay; raises ContextLengthError where that cannot fit."""
        last = len(prompt) + request.sampling.max_tokens
        pins = Pins.whole(len(prompt))
        if cache.sliding and (last > self._max_model_len or cache.window.dropped):
            pins = self._prompts.pins(request, prompt)
        if pins.num_tokens >= self._max_model_len:
            raise ContextLengthError(pins.num_tokens, self._max_model_len)
        return pins

    @staticmethod
    def _read(
        cache: KvCache, prompt: list[int], pins: Pins, patience: Patience
    ) -> FinishReason | None:
        """Evaluate what is new in the prompt; return why it was left unfinished, if it was."""
        if ended := patience.ended():
            return ended
        pieces = cache.read(prompt, pins)
        while next(pieces, _DONE) is not _DONE:
            if ended := patience.ended():
                return ended
        return None

    def _decode(
        self,
        cache: KvCache,
        answer: Answer,
        tokens: Iterator[Chosen],
        patience: Patience,
        observer: StateObserver | None,
    ) -> Iterator[Delta | Finish]:
        """Yield token after token until the answer ends, of itself or by force."""
        ended: FinishReason = "length"  # when the tokens run out, the context is full
        try:
            for chosen in tokens:
                if self._vocabulary.is_end(chosen.token):
                    ended = "stop"
                    break
                if observer is not None:
                    observer(answer.num_tokens, cache.hidden(chosen.row).copy())
                yield answer.take(
                    chosen.token, self._vocabulary.piece(chosen.token), chosen.confidence
                )
                if (reason := answer.ended() or patience.ended()) is not None:
                    ended = reason
                    break
        except NearfarError as error:
            if answer.num_tokens == 0:
                raise
            # The reader already has part of the answer, so the failure is its end.
            yield answer.finish("error", error=str(error))
            return
        if (rest := answer.rest()) is not None:
            yield rest
        yield answer.finish(ended, dropped_tokens=cache.window.dropped)
