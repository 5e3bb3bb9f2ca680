"""One request's answer: its sequence, its text so far, its clock, and where its words go."""

from __future__ import annotations

import time
from collections.abc import Callable

from backbone.sampling import Sampler, SamplingValues
from backbone.text_stream import TextStream
from backbone.tokenizer import Tokenizer
from cloud.engine.runner import Outcome
from cloud.engine.sequence import Sequence
from offload.errors import ContextLengthError, RequestError
from offload.messages import Delta, Finish, FinishReason, Request, Route, Usage

Post = Callable[["Delta | Finish"], None]


def encode_request(request: Request, tokenizer: Tokenizer, max_model_len: int) -> list[int]:
    """Return the prompt's tokens. Raises RequestError where the model cannot take it."""
    if request.sampling.json_schema is not None:
        raise RequestError("this engine cannot hold an answer to a json_schema; leave it out")
    if request.prompt is not None:
        tokens = tokenizer.encode(request.prompt)
    else:
        turns = [{"role": m.role, "content": m.content} for m in request.messages]
        tokens = tokenizer.encode_chat(turns)
    if not tokens:
        raise RequestError("the prompt has no tokens; write a question")
    if len(tokens) >= max_model_len:
        raise ContextLengthError(len(tokens), max_model_len)
    return tokens


class Answer:
    """Turns outcomes into Deltas, and knows when to end."""

    def __init__(
        self,
        request: Request,
        prompt: list[int],
        tokenizer: Tokenizer,
        *,
        max_model_len: int,
        vocab_size: int,
        received_s: float,
        post: Post,
    ) -> None:
        self._tokenizer = tokenizer
        self._text = TextStream(request.sampling.stop)
        self._post = post
        self._received_s = received_s
        self._started_s: float | None = None
        self._first_token_s: float | None = None
        self.ended = False
        self.sequence = Sequence(
            prompt,
            max_tokens=min(request.sampling.max_tokens, max_model_len - len(prompt)),
            sampler=_sampler(request, prompt, vocab_size),
            deadline_s=received_s + (request.deadline_s or float("inf")),
        )

    def start(self, now_s: float) -> None:
        """Note the first step that works on this answer."""
        if self._started_s is None:
            self._started_s = now_s

    def accept(self, outcome: Outcome) -> FinishReason | None:
        """Take the next token, post what it says, and return the reason to end, if any."""
        if self._first_token_s is None:
            self._first_token_s = time.monotonic()
        if outcome.token in self._tokenizer.eos_token_ids:
            return "stop"
        index = self.sequence.num_generated
        self.sequence.append(outcome.token)
        self._post(
            Delta(
                text=self._text.push(self._tokenizer.token_bytes(outcome.token)),
                index=index,
                token_ids=(outcome.token,),
                confidence=(outcome.confidence,),
                source="cloud",
            )
        )
        if self._text.stopped:
            return "stop"
        return "length" if index + 1 >= self.sequence.max_tokens else None

    def end(self, reason: FinishReason, error: str | None = None) -> None:
        """Post the held text and the Finish."""
        self.ended = True
        if rest := self._text.flush():
            self._post(Delta(text=rest, index=self.sequence.num_generated, source="cloud"))
        route = Route(served_by="cloud", reason="cloud_only")
        self._post(Finish(reason=reason, usage=self._usage(), route=route, error=error))

    def _usage(self) -> Usage:
        now_s = time.monotonic()
        started_s = now_s if self._started_s is None else self._started_s
        first_token_s = now_s if self._first_token_s is None else self._first_token_s
        return Usage(
            prompt_tokens=self.sequence.num_prompt_tokens,
            completion_tokens=self.sequence.num_generated,
            queue_s=started_s - self._received_s,
            prefill_s=first_token_s - started_s,
            decode_s=now_s - first_token_s,
        )


def _sampler(request: Request, prompt: list[int], vocab_size: int) -> Sampler:
    asked = request.sampling
    values = SamplingValues(
        temperature=asked.temperature,
        top_k=asked.top_k,
        top_p=asked.top_p,
        min_p=asked.min_p,
        repetition_penalty=asked.repetition_penalty,
    )
    sampler = Sampler(values, seed=asked.seed, vocab_size=vocab_size)
    sampler.note(prompt)
    return sampler
