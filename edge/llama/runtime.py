"""The llama.cpp runtime: an Engine over one GGUF file."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from backbone.errors import NearfarError
from edge.device.cores import num_usable_cores
from edge.llama.answer import Answer, Patience
from edge.llama.binding import Context, Model
from edge.llama.kv_types import KvTypes
from edge.llama.prompt import PromptWriter
from edge.llama.sampler import Gauge, Sampler
from offload.errors import ContextLengthError, SettingsError
from offload.messages import Delta, Finish, FinishReason, ModelCard, Request
from offload.worker import Worker


@dataclass(frozen=True, kw_only=True)
class LlamaOptions:
    """How a GGUF model is run; checked here, an error names the field.

    max_model_len: tokens of context, 0 for the model's own. num_threads: 0 for the cores this
    process may use. max_num_batched_tokens: prompt tokens evaluated at once. num_gpu_layers: -1
    for all. kv_cache_dtype: how keys and values are stored, see kv_types.py. flash_attention:
    off only to compare; blocked values need it. enable_prefix_caching: keep the part of the
    last prompt that the next one shares.
    """

    max_model_len: int = 0
    num_threads: int = 0
    max_num_batched_tokens: int = 512
    num_gpu_layers: int = 0
    kv_cache_dtype: str = "f16"
    flash_attention: bool = True
    enable_prefix_caching: bool = True

    def __post_init__(self) -> None:
        _check("max_model_len", self.max_model_len, 0, 16_777_216)
        _check("num_threads", self.num_threads, 0, 1024)
        _check("max_num_batched_tokens", self.max_num_batched_tokens, 1, 65_536)
        _check("num_gpu_layers", self.num_gpu_layers, -1, 10_000)
        if KvTypes.parse(self.kv_cache_dtype).values_need_flash and not self.flash_attention:
            raise SettingsError(
                f"kv_cache_dtype {self.kv_cache_dtype} needs flash attention; "
                "turn flash_attention on, or choose f16"
            )


class LlamaEngine:
    """Answers requests one after another from a GGUF model, near.

    Raises CheckpointError for a file that cannot be run and SettingsError for a context longer
    than the model was trained for.
    """

    def __init__(self, path: Path, *, options: LlamaOptions | None = None) -> None:
        self._options = options or LlamaOptions()
        self._model = Model(path, num_gpu_layers=self._options.num_gpu_layers)
        try:
            self._context = self._make_context()
        except BaseException:
            self._model.close()
            raise
        self._prompts = PromptWriter(self._model)
        self._gauge = Gauge(self._model.vocabulary.num_tokens)
        self._cached: list[int] = []  # the tokens whose keys and values the context holds
        self._worker: Worker[Delta | Finish] = Worker("nearfar-edge")
        self._closed = False

    def _make_context(self) -> Context:
        trained, asked = self._model.trained_len, self._options.max_model_len
        if asked > trained:
            raise SettingsError(
                f"max_model_len is {asked} and {self._model.path.name} was trained for "
                f"{trained}; set it to {trained} or less"
            )
        self.max_model_len = asked or trained
        return Context(
            self._model,
            num_tokens=self.max_model_len,
            num_threads=self._options.num_threads or num_usable_cores(),
            batch_size=min(self._options.max_num_batched_tokens, self.max_model_len),
            kv_types=KvTypes.parse(self._options.kv_cache_dtype),
            flash_attention=self._options.flash_attention,
        )

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
        if len(prompt) >= self.max_model_len:
            raise ContextLengthError(len(prompt), self.max_model_len)
        answer = Answer(request, num_prompt=len(prompt), queue_s=started - received)
        patience = Patience(request, cancelled, received)
        ended = self._prefill(prompt, patience)
        answer.prefilled()
        if ended is not None:
            yield answer.finish(ended)
            return
        with Sampler(request.sampling, self._model.vocabulary.num_tokens, self._gauge) as sampler:
            sampler.remember(prompt)
            yield from self._decode(answer, sampler, patience)

    def _decode(
        self, answer: Answer, sampler: Sampler, patience: Patience
    ) -> Iterator[Delta | Finish]:
        """Yield token after token until the answer ends, of itself or by force."""
        vocabulary = self._model.vocabulary
        ended: FinishReason | None = None
        try:
            while ended is None:
                token, confidence = sampler.next(self._context)
                if vocabulary.is_end(token):
                    ended = "stop"
                    break
                yield answer.take(token, vocabulary.piece(token), confidence)
                ended = answer.ended() or patience.ended() or self._full()
                if ended is None:
                    self._evaluate([token])
        except NearfarError as error:
            if answer.num_tokens == 0:
                raise
            # The reader already has part of the answer, so the failure is its end.
            yield answer.finish("error", str(error))
            return
        if (rest := answer.rest()) is not None:
            yield rest
        yield answer.finish(ended)

    def _prefill(self, prompt: list[int], patience: Patience) -> FinishReason | None:
        """Evaluate what is new in the prompt, in batches; return why it was left, if it was."""
        position = self._reuse(prompt)
        while position < len(prompt):
            if ended := patience.ended():
                return ended
            batch = prompt[position : position + self._context.batch_size]
            self._evaluate(batch)
            position += len(batch)
        return None

    def _reuse(self, prompt: Sequence[int]) -> int:
        """Keep the cached prefix that the prompt shares; return how many tokens that is."""
        shared = 0
        if self._options.enable_prefix_caching:
            # The last prompt token is always evaluated: its logits are not kept.
            for old, new in zip(self._cached, prompt[:-1], strict=False):
                if old != new:
                    break
                shared += 1
        if shared == 0 or not self._context.keep_prefix(shared):
            self._context.clear()
            shared = 0
        del self._cached[shared:]
        return shared

    def _evaluate(self, tokens: list[int]) -> None:
        try:
            self._context.decode(tokens, len(self._cached))
        except NearfarError:
            self._context.clear()
            self._cached.clear()
            raise
        self._cached += tokens

    def _full(self) -> FinishReason | None:
        return "length" if len(self._cached) >= self.max_model_len else None

    def _require_open(self) -> None:
        if self._closed:
            raise NearfarError("this engine is closed; load the model again")

    async def aclose(self) -> None:
        """Wait for the answer in progress, then free the model; a second call does nothing."""
        if not self._closed:
            self._closed = True
            await asyncio.to_thread(self.close)

    def close(self) -> None:
        """Free the model, for callers without an event loop."""
        self._closed = True
        self._worker.close()
        self._context.close()
        self._model.close()


def _check(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise SettingsError(f"{name} is {value}; it must lie between {low} and {high}")
