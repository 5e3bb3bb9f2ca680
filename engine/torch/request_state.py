"""A request in the engine: the tokens of its prompt, and the state of its answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from backbone.errors import TemplateRefusal
from backbone.sampling import Ranked, Sampler
from backbone.text_stream import TextStream
from backbone.tokenizer import Tokenizer
from engine.torch.sequence import QueueLane
from engine.torch.sequence import Sequence as Tokens
from engine.torch.step import NextToken, Scored
from offload.chat_turns import require_known, require_place, turns
from offload.errors import ContextLengthError, RequestError, Unsupported
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
from offload.scored_turn import scored_places
from offload.thinking import opened, tail_of

Post = Callable[["Delta | Finish"], None]


def encode_request(request: Request, tokenizer: Tokenizer, max_model_len: int) -> list[int]:
    """Return the prompt's tokens, and behind them those of the answer that has begun.

    Raises RequestError where the model cannot take it.
    """
    if request.prompt_token_ids:
        require_known(request, tokenizer.max_token_id + 1)
        tokens = list(request.prompt_token_ids)
    elif request.prompt is not None:
        if request.tools:
            raise Unsupported("tools need messages and a chat template; a raw prompt has neither")
        if request.suffix:
            tokens = tokenizer.encode_around(request.prompt, request.suffix)
        else:
            tokens = tokenizer.encode(request.prompt, answer_prefix=request.answer_prefix)
    else:
        tokens = _encode_messages(request, tokenizer)
    if not tokens:
        raise RequestError("the prompt has no tokens; write a question")
    if len(tokens) >= max_model_len:
        raise ContextLengthError(len(tokens), max_model_len)
    return tokens


def _encode_messages(request: Request, tokenizer: Tokenizer) -> list[int]:
    _require_template(request, tokenizer.template_for(request.tools))
    try:
        return tokenizer.encode_chat(
            turns(request),
            tools=request.tools,
            answer_prefix=request.answer_prefix,
            options=request.template_options,
        )
    except TemplateRefusal as error:
        raise RequestError(str(error)) from None


def _require_template(request: Request, template: str | None) -> None:
    """Refuse what a template would leave out in silence."""
    if template is None:
        raise Unsupported("this model has no chat template; ask it with a plain prompt")
    require_place(request, template)


def _scores(
    request: Request, prompt: list[int], tokenizer: Tokenizer, max_model_len: int
) -> range | None:
    if not request.sampling.prompt_logprobs:
        return None
    return scored_places(
        request, prompt, lambda other: encode_request(other, tokenizer, max_model_len)
    )


class RequestState:
    """The answer to one request: turns step results into Deltas, and decides when it ends."""

    def __init__(
        self,
        request: Request,
        prompt: list[int],
        sampler: Sampler,
        tokenizer: Tokenizer,
        *,
        max_model_len: int,
        received_s: float,
        post: Post,
        lane: QueueLane = QueueLane(),  # noqa: B008
        max_draft: int = 0,
        progress: Progress | None = None,
    ) -> None:
        """`progress` is told how much of the prompt has been read."""
        self._progress = progress
        self._reading: PromptReading | None = None  # since the first step
        self._tokenizer = tokenizer
        self._sampled = sampled(request.sampling)
        self._text = TextStream(request.sampling.stop)
        self._ends = {*tokenizer.eos_token_ids, *request.sampling.stop_token_ids}
        self._opened = opened(request, tokenizer.written(tail_of(prompt)))
        self._post = post
        self._received_s = received_s
        self._started_s: float | None = None
        self._first_token_s: float | None = None
        self._shows_alternatives = request.sampling.logprobs > 0
        scores = _scores(request, prompt, tokenizer, max_model_len)
        self._prompt_tokens: list[PromptToken] = []
        self.ended = False
        salts = (lane.device, request.cache_salt)
        self.sequence = Tokens(
            prompt,
            max_tokens=min(request.sampling.max_tokens, max_model_len - len(prompt)),
            sampler=sampler,
            deadline_s=received_s + (request.deadline_s or float("inf")),
            num_alternatives=request.sampling.logprobs,
            scores=scores,
            lane=lane,
            salt="\n".join(salts) if any(salts) else "",
            max_draft=max_draft,
        )
        if scores is not None:
            self._prompt_texts = tokenizer.token_texts(prompt)
            if scores.start == 1:
                self._prompt_tokens.append(PromptToken(prompt[0], self._prompt_texts[0], None))

    def start(self, now_s: float) -> None:
        """Note the first step that works on this answer."""
        if self._started_s is None:
            self._started_s = now_s
            held, whole = self.sequence.num_prompt_cached, self.sequence.num_prompt_tokens
            self._reading = PromptReading(self._progress, held, whole)

    def read(self) -> None:
        """Tell how far the prompt has been read, until the first token is there."""
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
        can follow.
        """
        if self._first_token_s is None:
            self._first_token_s = time.monotonic()
            if self._opened:
                self._post(Delta(text=self._opened, source="cloud"))
        reason: FinishReason | None = None
        for one in chosen:
            if one.token in self._ends:
                return "stop"
            index = self.sequence.num_generated
            self.sequence.append(one.token)
            self._say(self._text.push(self._tokenizer.token_bytes(one.token)), index, one)
            if (reason := self._reason_to_end()) is not None:
                break
        return reason

    def end(self, reason: FinishReason, error: str | None = None) -> None:
        """Post the held text and the Finish."""
        self.ended = True
        rest = self._text.flush()
        if rest or (self._prompt_tokens and not error):
            self._say(rest, self.sequence.num_generated)
        route = Route(served_by="cloud", reason="cloud_only")
        usage = self._usage()
        self._post(
            Finish(reason=reason, usage=usage, route=route, error=error, sampled=self._sampled)
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
                source="cloud",
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
