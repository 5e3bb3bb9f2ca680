"""The llama.cpp runtime: an Engine over one GGUF file."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

from backbone.errors import NearfarError
from edge.device.memory import free_memory_bytes
from edge.llama.answer import Answer, Patience
from edge.llama.binding import Model
from edge.llama.cache import KvCache
from edge.llama.context import Context
from edge.llama.conversation import Conversation
from edge.llama.fingerprint import fingerprint
from edge.llama.lookup import Lookup
from edge.llama.options import LlamaOptions
from edge.llama.pace import Pace
from edge.llama.plan import plan
from edge.llama.prompt import PromptWriter
from edge.llama.sampler import Gauge, Sampler
from edge.llama.sessions import SessionStore
from edge.llama.steps import steps
from edge.llama.window import Pins, Window
from offload.errors import ContextLengthError, SettingsError
from offload.messages import Confidence, Delta, Finish, FinishReason, ModelCard, Request
from offload.worker import Worker

__all__ = ["LlamaEngine", "LlamaOptions"]


class LlamaEngine:
    """Answers requests one after another from a GGUF model, near.

    Raises CheckpointError for a file that cannot be run and SettingsError for a context longer
    than the model was trained for.
    """

    def __init__(self, path: Path, *, options: LlamaOptions | None = None) -> None:
        self._options = options or LlamaOptions()
        with contextlib.ExitStack() as stack:
            self._model = stack.enter_context(
                Model(path, num_gpu_layers=self._options.num_gpu_layers)
            )
            self._context = stack.enter_context(self._make_context())
            self._cache = self._make_cache()
            self._conversation = self._make_conversation()
            self._prompts = PromptWriter(self._model)
            self._owned = stack.pop_all()  # from here on, close() frees them
        self._pace = Pace(self._context, fixed_threads=self._options.num_threads)
        self._gauge = Gauge(self._model.vocabulary.num_tokens)
        self._worker: Worker[Delta | Finish] = Worker("nearfar-edge")
        self._closed = False

    def _make_context(self) -> Context:
        self.params = plan(self._model, self._options, free_memory_bytes())
        return Context(self._model, self.params)

    @property
    def max_model_len(self) -> int:
        """Return how many tokens the context holds."""
        return self.params.num_tokens

    def _make_cache(self) -> KvCache:
        options = self._options
        can_slide = self._context.can_forget()
        if options.window and not can_slide:
            raise SettingsError(
                f"window is {options.window} and {self._model.path.name} cannot forget the middle "
                "of its context; set window to 0"
            )
        window = Window(
            self.max_model_len,
            num_sinks=min(options.num_sinks, self.max_model_len // 2),
            block=options.window_block,
        )
        sliding = can_slide and options.window != 0
        return KvCache(self._context, window, sliding=sliding, reuse=options.enable_prefix_caching)

    def _make_conversation(self) -> Conversation:
        folder, params = self._options.session_folder, self.params
        if folder is None:
            return Conversation(self._cache, None)
        # Everything that decides how a state is laid out is part of its name.
        model = f"{fingerprint(self._model.path)} {params.kv_types} {params.flash_attention}"
        budget = self._options.session_budget_bytes
        return Conversation(self._cache, SessionStore(folder, model=model, budget_bytes=budget))

    def card(self) -> ModelCard:
        """Return what this engine runs and can do."""
        model = self._model
        return ModelCard(
            name=model.metadata("general.name") or model.path.stem,
            architecture=model.architecture,
            runtime="llama.cpp",
            num_parameters=model.num_parameters,
            quantization=model.quantization,
            size_bytes=model.size_bytes,
            max_model_len=self.max_model_len,
            chat=bool(self._prompts.template),
        )

    @property
    def path(self) -> Path:
        """Return the model's file."""
        return self._model.path

    def prompt_tokens(self, request: Request) -> list[int]:
        """Return the tokens that the model would read; raises CheckpointError."""
        return self._prompts.tokens(request)

    def detokenize(self, tokens: Sequence[int]) -> bytes:
        """Return the bytes of tokens; control tokens have none."""
        return self._model.vocabulary.detokenize(tokens)

    async def generate(self, request: Request) -> AsyncIterator[Delta | Finish]:
        """Stream the answer, a Delta per token; the last item, and only it, is a Finish."""
        self._require_open()
        received = time.monotonic()
        stream = self._worker.stream(lambda gone: self.answer(request, gone, received=received))
        try:
            async for item in stream:
                yield item
        finally:
            await stream.aclose()  # type: ignore[attr-defined]

    def answer(
        self,
        request: Request,
        cancelled: threading.Event | None = None,
        *,
        received: float | None = None,
    ) -> Iterator[Delta | Finish]:
        """Yield what generate() streams, in the calling thread; for one caller at a time.

        `received`, of time.monotonic(), is when the request's deadline began to count.
        """
        self._require_open()
        started = time.monotonic()
        received = started if received is None else received
        prompt = self._prompts.tokens(request)
        pins = self._pins(request, prompt)
        answer = Answer(request, num_prompt=len(prompt), queue_s=started - received)
        patience = Patience(request, cancelled, received)
        self._conversation.enter(request.session, prompt)
        self._pace.before_prompt()
        ended = self._prefill(prompt, pins, patience)
        answer.prefilled()
        if ended is not None:
            yield answer.finish(ended)
            return
        with Sampler(request.sampling, self._model.vocabulary, self._gauge) as sampler:
            sampler.remember(prompt)
            tokens = steps(self._cache, sampler, pins, self._pace, self._make_lookup(prompt))
            with contextlib.closing(tokens):
                yield from self._decode(answer, tokens, patience)

    def _make_lookup(self, prompt: list[int]) -> Lookup | None:
        max_draft = self._options.max_draft_tokens
        return Lookup(prompt, max_draft=max_draft) if max_draft else None

    def _pins(self, request: Request, prompt: list[int]) -> Pins:
        """Return what of a prompt must stay; raises ContextLengthError where that cannot fit."""
        last = len(prompt) + request.sampling.max_tokens
        pins = Pins.whole(len(prompt))
        if self._cache.sliding and (last > self.max_model_len or self._cache.window.dropped):
            pins = self._prompts.pins(request, prompt)
        if pins.num_tokens >= self.max_model_len:
            raise ContextLengthError(pins.num_tokens, self.max_model_len)
        return pins

    def _decode(
        self, answer: Answer, tokens: Iterator[tuple[int, Confidence]], patience: Patience
    ) -> Iterator[Delta | Finish]:
        """Yield token after token until the answer ends, of itself or by force."""
        vocabulary = self._model.vocabulary
        ended: FinishReason = "length"  # when the tokens run out, the context is full
        try:
            for token, confidence in tokens:
                if vocabulary.is_end(token):
                    ended = "stop"
                    break
                yield answer.take(token, vocabulary.piece(token), confidence)
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
        yield answer.finish(ended, dropped_tokens=self._cache.window.dropped)

    def _prefill(self, prompt: list[int], pins: Pins, patience: Patience) -> FinishReason | None:
        """Evaluate what is new in the prompt; return why it was left unfinished, if it was."""
        if ended := patience.ended():
            return ended
        steps = self._cache.read(prompt, pins)
        while next(steps, _DONE) is not _DONE:
            if ended := patience.ended():
                return ended
        return None

    def _require_open(self) -> None:
        if self._closed:
            raise NearfarError("this engine is closed; load the model again")

    async def aclose(self) -> None:
        """Wait for the answer in progress, then free the model; a second call does nothing."""
        if not self._closed:
            self._closed = True
            await asyncio.to_thread(self.close)

    def close(self) -> None:
        """Keep the conversation and free the model, for callers without an event loop."""
        if not self._model.is_open:
            return
        self._closed = True
        self._worker.close()
        self._conversation.leave()
        self._owned.close()


_DONE = object()
