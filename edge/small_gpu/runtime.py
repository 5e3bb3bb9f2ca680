"""The torch runtime of the edge: an Engine over a Hugging Face folder, for small GPUs and CPUs."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import torch
from torch import Tensor

from backbone.config import NetworkConfig
from backbone.errors import NearfarError
from backbone.network import Network
from backbone.sampling import Sampler, choose, confidence, likeliest
from backbone.tokenizer import Tokenizer
from edge.llama.answer import Answer, Patience
from edge.small_gpu.context import Context
from edge.small_gpu.loading import load, quantization_name
from edge.small_gpu.options import MIN_LEN, TorchOptions
from edge.small_gpu.prompt import prompt_tokens, refuse_unsupported, sampler_for
from offload.errors import ContextLengthError, SettingsError
from offload.messages import (
    Alternative,
    Confidence,
    Delta,
    Finish,
    FinishReason,
    ModelCard,
    Request,
)
from offload.worker import Worker

__all__ = ["TorchEdgeEngine", "TorchOptions"]


class TorchEdgeEngine:
    """Answers requests from an HF folder, one after another; int4 and int8 folders stay so.

    Raises CheckpointError for a folder that cannot be run and SettingsError for a context longer
    than the model was trained for.
    """

    def __init__(self, folder: Path, *, options: TorchOptions | None = None) -> None:
        self._options = options or TorchOptions()
        if self._options.num_threads:
            torch.set_num_threads(self._options.num_threads)
        self.path = folder
        self.max_model_len = _context_len(NetworkConfig.load(folder), self._options)
        self._tokenizer = Tokenizer(folder)
        device = _device(self._options)
        self._network = load(
            folder,
            device=device,
            dtype=_dtype(self._options, device),
            fast=self._options.fast_linear,
        )
        self._context = Context(self._network, self._options, max_model_len=self.max_model_len)
        self._lock = threading.Lock()
        self._worker: Worker[Delta | Finish] = Worker("nearfar-edge")
        self._closed = False

    def card(self) -> ModelCard:
        """Return what this engine runs and can do."""
        return ModelCard(
            name=self.path.resolve().name,
            architecture=self._network.config.model_type,
            runtime="torch",
            num_parameters=_num_parameters(self._network.config),
            quantization=quantization_name(self.path),
            size_bytes=sum(file.stat().st_size for file in self.path.glob("*.safetensors")),
            max_model_len=self.max_model_len,
            chat=self._tokenizer.chat_template is not None,
        )

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
        """Yield what generate() streams, in the calling thread; one answer at a time.

        Raises Unsupported for what this runtime cannot do, ContextLengthError for a prompt that
        does not fit where the window is off.
        """
        self._require_open()
        received = time.monotonic() if received is None else received
        refuse_unsupported(request, self._network.config.vocab_size)
        prompt = prompt_tokens(self._tokenizer, request)
        if not self._context.sliding and len(prompt) >= self.max_model_len:
            raise ContextLengthError(len(prompt), self.max_model_len)
        with self._lock:
            answer = Answer(request, num_prompt=len(prompt), queue_s=time.monotonic() - received)
            yield from self._write(request, prompt, answer, Patience(request, cancelled, received))

    def _write(
        self, request: Request, prompt: list[int], answer: Answer, patience: Patience
    ) -> Iterator[Delta | Finish]:
        steps = self._context.read(prompt)
        logits = next(steps)
        while (given_up := patience.ended()) is None and (more := next(steps, None)) is not None:
            logits = more
        if given_up is not None:
            yield answer.finish(given_up)
            return
        answer.prefilled()
        ended: FinishReason = "length"  # when no further token fits, the context is full
        sampler = sampler_for(request, prompt, self._network.config.vocab_size)
        try:
            for delta in self._tokens(request, sampler, answer, logits):
                if delta is None:
                    ended = "stop"
                    break
                yield delta
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
        yield answer.finish(ended, dropped_tokens=self._context.ring.dropped)

    def _tokens(
        self, request: Request, sampler: Sampler, answer: Answer, logits: Tensor
    ) -> Iterator[Delta | None]:
        """Yield a Delta per token while there is room; None where the model ends its answer."""
        while True:
            chosen = choose(logits, [sampler])
            token = int(chosen)
            if token in self._tokenizer.eos_token_ids:
                yield None
                return
            sure = Confidence(*confidence(logits, chosen)[0].tolist())
            others = self._alternatives(logits, request.sampling.logprobs)
            yield answer.take(token, self._tokenizer.token_bytes(token), sure, others)
            sampler.took(token)
            if not self._context.sliding and self._context.is_full:
                return
            logits = self._context.step([token])

    def _alternatives(self, logits: Tensor, count: int) -> tuple[Alternative, ...]:
        if not count:
            return ()
        values, tokens = (each[0].tolist() for each in likeliest(logits, count))
        return tuple(
            Alternative(token, self._tokenizer.decode([token]), value)
            for token, value in zip(tokens, values, strict=True)
        )

    def _require_open(self) -> None:
        if self._closed:
            raise NearfarError("this engine is closed; load the model again")

    async def aclose(self) -> None:
        """Wait for the answer in progress, then let the model go; a second call does nothing."""
        if not self._closed:
            self._closed = True
            await asyncio.to_thread(self._worker.close)


def _context_len(config: NetworkConfig, options: TorchOptions) -> int:
    trained = config.max_position_embeddings
    if trained < MIN_LEN or 0 < options.max_model_len < MIN_LEN:
        raise SettingsError(f"a context must hold at least {MIN_LEN} tokens; set max_model_len")
    if options.max_model_len > trained:
        raise SettingsError(
            f"max_model_len is {options.max_model_len} and the model was trained for {trained}; "
            "choose at most that"
        )
    return options.max_model_len or trained


def _device(options: TorchOptions) -> torch.device:
    if options.device != "auto":
        try:
            device = torch.device(options.device)
        except RuntimeError:
            raise SettingsError(f"device {options.device!r} is unknown; use cpu or cuda") from None
        if device.type == "cuda" and not torch.cuda.is_available():
            raise SettingsError("device is cuda and torch sees no GPU; use cpu, or auto")
        return device
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _dtype(options: TorchOptions, device: torch.device) -> torch.dtype:
    if options.dtype == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    dtype = getattr(torch, options.dtype)
    assert isinstance(dtype, torch.dtype), "options checks the names"
    return dtype


def _num_parameters(config: NetworkConfig) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in Network(config).parameters())
