"""A request in the engine: its sequence, and the state of its answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Literal

from backbone.errors import NearfarError
from backbone.sampling import Ranked
from backbone.text_stream import TextStream
from backbone.tokenizer import Tokenizer
from engine.token_healing import KnownEnd
from engine.torch.sequence import Sequence as Tokens
from engine.torch.step import NextToken, Scored
from engine.torch.token_healing import TextConstraint
from offload.messages import (
    Alternative,
    Delta,
    Finish,
    FinishReason,
    PromptToken,
    Request,
    Route,
    Usage,
)
from offload.own_sampling import sampled
from offload.reading import Progress, PromptReading
from offload.thinking import opened, tail_of

Item = Delta | Finish | NearfarError
Side = Literal["edge", "cloud"]


class RequestState:
    """The answer to one request: turns step results into Deltas, and decides when it ends.

    `post` takes every Delta and the one Finish, in the thread that runs the steps. On the edge an
    error that comes before the first token is posted instead, to be raised.
    """

    def __init__(
        self,
        request: Request,
        sequence: Tokens,
        tokenizer: Tokenizer,
        *,
        received_s: float,
        post: Callable[[Item], None],
        side: Side = "cloud",
        stops: Sequence[str] = (),
        spelling: TextConstraint | None = None,
        progress: Progress | None = None,
        gone: threading.Event | None = None,
    ) -> None:
        """`stops` end the answer beside the request's own, `gone` is set when nobody reads it.

        `spelling` is what its first tokens must spell once more, and the reader has already.
        """
        self.sequence = sequence
        self._tokenizer = tokenizer
        self._side: Side = side
        self._sampled = sampled(request.sampling)
        self._text = TextStream((*request.sampling.stop, *stops))
        self._ends = {*tokenizer.eos_token_ids, *request.sampling.stop_token_ids}
        prompt = sequence.tokens
        self._opened = opened(request, tokenizer.written(tail_of(prompt)))
        self._spelling = spelling
        self._known = KnownEnd(spelling.text if spelling else b"")
        self._progress = progress
        self._reading: PromptReading | None = None
        self._gone = gone
        self._post = post
        self._received_s = received_s
        self._started_s: float | None = None
        self._first_token_s: float | None = None
        self._shows_alternatives = request.sampling.logprobs > 0
        self._prompt_tokens: list[PromptToken] = []
        self.ended = False
        if sequence.num_scored is not None:
            self._prompt_texts = tokenizer.token_texts(prompt)
            if sequence.num_scored == 1:
                self._prompt_tokens.append(PromptToken(prompt[0], self._prompt_texts[0], None))

    @property
    def is_gone(self) -> bool:
        """Whether nobody reads it any more."""
        return self._gone is not None and self._gone.is_set()

    def start(self, now_s: float) -> None:
        """Note the first step that works on this answer."""
        if self._started_s is None:
            self._started_s = now_s
            held, whole = self.sequence.num_prompt_cached, self.sequence.num_prompt_tokens
            self._reading = PromptReading(self._progress, held, whole)

    def read(self) -> None:
        """Tell who hears of it how much of the prompt is computed."""
        if self._reading is not None and self._first_token_s is None:
            self._reading.tell(self.sequence.num_computed)

    def score(self, scored: Sequence[Scored]) -> None:
        """Keep what was found of the prompt's next tokens, until the first Delta."""
        if not scored:
            return
        at = self.sequence.num_scored
        assert at is not None, "only prompts that ask for it are scored"
        self._prompt_tokens += map(self._prompt_token, range(at, at + len(scored)), scored)
        self.sequence.num_scored = at + len(scored)

    def accept(self, chosen: Sequence[NextToken]) -> FinishReason | None:
        """Take the next tokens, post what they say, and return the reason to end, if any.

        Tokens behind the end are dropped. Each token is said by itself, also of those that one step
        brought: its confidence belongs to its own text. Raises SchemaRefusal where no token
        can follow, and RequestError where none spells the end of the answer's beginning.
        """
        if self._first_token_s is None:
            self._first_token_s = time.monotonic()
            if self._reading is not None:
                self._reading.tell(self.sequence.num_prompt_tokens)
            if self._opened:
                self._post(Delta(text=self._opened, source=self._side))
        reason: FinishReason | None = None
        for one in chosen:
            if self._spelling is not None:
                self._spelling.require(one.token)
            if one.token in self._ends:
                return "stop"
            index = self.sequence.num_generated
            self.sequence.append(one.token)
            news = self._known.news(self._tokenizer.token_bytes(one.token))
            if news is None:
                self.sequence.num_prompt_tokens += 1  # the reader has all of it
            else:
                self._say(self._text.push(news), index, one)
            self._end_spelling()
            if (reason := self._reason_to_end()) is not None:
                break
        return reason

    def _end_spelling(self) -> None:
        """Let the sampler choose freely once the end of the beginning has been spelled."""
        if self._spelling is not None and self._spelling.done:
            self._spelling = None
            self.sequence.sampler.constrain(None)

    def end(self, reason: FinishReason, error: NearfarError | None = None) -> None:
        """Post the held text and the Finish, or the error alone."""
        self.ended = True
        if error is not None and self._side == "edge" and not self.sequence.num_generated:
            self._post(error)
            return
        rest = self._text.flush()
        if rest or (self._prompt_tokens and not error):
            self._say(rest, self.sequence.num_generated)
        self._post(
            Finish(
                reason=reason,
                usage=self._usage(),
                route=Route(served_by=self._side, reason=f"{self._side}_only"),
                error=None if error is None else str(error),
                dropped_tokens=self.sequence.num_dropped,
                sampled=self._sampled,
            )
        )

    def _reason_to_end(self) -> FinishReason | None:
        if self._text.stopped or self.sequence.sampler.is_done:
            return "stop"
        return "length" if self.sequence.num_generated >= self.sequence.max_tokens else None

    def _say(self, text: str, index: int, chosen: NextToken | None = None) -> None:
        tokens = () if chosen is None else (chosen,)
        shown = tokens if self._shows_alternatives else ()
        prompt, self._prompt_tokens = tuple(self._prompt_tokens), []
        self._post(
            Delta(
                text=text,
                index=index,
                token_ids=tuple(one.token for one in tokens),
                confidence=tuple(one.confidence for one in tokens),
                alternatives=tuple(self._alternatives(one.alternatives) for one in shown),
                prompt_tokens=prompt,
                source=self._side,
            )
        )

    def _prompt_token(self, at: int, scored: Scored) -> PromptToken:
        others = self._alternatives(scored.alternatives)
        token, text = self.sequence.tokens[at], self._prompt_texts[at]
        return PromptToken(token, text, scored.logprob, others, scored.rank, scored.entropy)

    def _alternatives(self, ranked: Ranked) -> tuple[Alternative, ...]:
        name = self._tokenizer.token_name
        return tuple(Alternative(token, name(token), value) for token, value in ranked)

    def _usage(self) -> Usage:
        now_s = time.monotonic()
        started_s = now_s if self._started_s is None else self._started_s
        first_token_s = now_s if self._first_token_s is None else self._first_token_s
        return Usage(
            prompt_tokens=self.sequence.num_prompt_tokens,
            cached_tokens=self.sequence.num_prompt_cached,
            completion_tokens=self.sequence.num_generated,
            queue_s=started_s - self._received_s,
            prefill_s=first_token_s - started_s,
            decode_s=now_s - first_token_s,
        )
