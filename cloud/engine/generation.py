"""One answer, token by token, in the thread that owns the network."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import torch

from backbone.network import Network
from backbone.sampling import Sampler, SamplingValues, choose, confidence
from backbone.text_stream import TextStream
from backbone.tokenizer import Tokenizer
from cloud.engine.cache import SequenceCache
from offload.errors import ContextLengthError, RequestError
from offload.messages import Confidence, Delta, Finish, FinishReason, Request, Route, Usage


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


def sampler_for(request: Request, prompt: list[int], vocab_size: int) -> Sampler:
    """Return the sampler of a request, with the prompt noted."""
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


class Generation:
    """The state of one answer; `run` yields its Deltas and its Finish."""

    def __init__(
        self,
        request: Request,
        network: Network,
        tokenizer: Tokenizer,
        max_model_len: int,
        received_s: float,
    ) -> None:
        self._network = network
        self._tokenizer = tokenizer
        self._prompt = encode_request(request, tokenizer, max_model_len)
        self._max_tokens = min(request.sampling.max_tokens, max_model_len - len(self._prompt))
        self._sampler = sampler_for(request, self._prompt, network.config.vocab_size)
        self._text = TextStream(request.sampling.stop)
        self._received_s = received_s
        self._started_s = self._first_token_s = time.monotonic()
        self._deadline_s = received_s + (request.deadline_s or float("inf"))
        weight = network.embed_tokens.weight
        capacity = len(self._prompt) + self._max_tokens
        self._cache = SequenceCache(network.config, capacity, weight.device, weight.dtype)
        self._num_generated = 0

    def run(self, cancelled: threading.Event) -> Iterator[Delta | Finish]:
        """Yield one Delta per token; looks at `cancelled` and the deadline between tokens."""
        reason: FinishReason | None = None
        pending = self._prompt
        while reason is None:
            reason = self._interrupted(cancelled)
            if reason is None:
                token, sureness = self._step(pending)
                pending = [token]
                if token in self._tokenizer.eos_token_ids:
                    reason = "stop"
                else:
                    yield self._delta(token, sureness)
                    reason = self._ended()
        if rest := self._text.flush():
            yield Delta(text=rest, index=self._num_generated, source="cloud")
        yield Finish(
            reason=reason,
            usage=self._usage(),
            route=Route(served_by="cloud", reason="cloud_only"),
        )

    @torch.inference_mode()
    def _step(self, pending: list[int]) -> tuple[int, Confidence]:
        """Run the network over the pending tokens and choose the next one."""
        start = self._cache.num_cached
        device = self._network.inverse.device
        tokens = torch.tensor(pending, device=device)
        positions = torch.arange(start, start + len(pending), device=device)
        hidden = self._network(tokens, positions, self._cache.attend)
        self._cache.num_cached += len(pending)
        logits = self._network.logits(hidden[-1:])
        chosen = choose(logits, [self._sampler])
        sureness = confidence(logits, chosen)
        if start == 0:
            self._first_token_s = time.monotonic()
        return int(chosen[0]), Confidence(*sureness[0].tolist())

    def _delta(self, token: int, sureness: Confidence) -> Delta:
        self._sampler.note((token,))
        self._num_generated += 1
        return Delta(
            text=self._text.push(self._tokenizer.token_bytes(token)),
            index=self._num_generated - 1,
            token_ids=(token,),
            confidence=(sureness,),
            source="cloud",
        )

    def _interrupted(self, cancelled: threading.Event) -> FinishReason | None:
        if cancelled.is_set():
            return "cancelled"
        return "deadline" if time.monotonic() >= self._deadline_s else None

    def _ended(self) -> FinishReason | None:
        if self._text.stopped:
            return "stop"
        return "length" if self._num_generated >= self._max_tokens else None

    def _usage(self) -> Usage:
        return Usage(
            prompt_tokens=len(self._prompt),
            completion_tokens=self._num_generated,
            queue_s=self._started_s - self._received_s,
            prefill_s=self._first_token_s - self._started_s,
            decode_s=time.monotonic() - self._first_token_s,
        )
