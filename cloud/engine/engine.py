"""The cloud's Engine: any supported Hugging Face folder, at full precision."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path

from backbone.checkpoint import load_network
from backbone.errors import CheckpointError
from backbone.network import Network
from backbone.tokenizer import Tokenizer
from cloud.engine.generation import Generation
from cloud.engine.options import EngineOptions
from offload.errors import RequestError
from offload.messages import Delta, Finish, ModelCard, Request
from offload.worker import Worker


class CloudEngine:
    """Runs one model; the network lives in one thread of its own."""

    def __init__(self, folder: Path, *, options: EngineOptions | None = None) -> None:
        """Load a model folder. Raises CheckpointError or SettingsError."""
        options = options or EngineOptions()
        device, dtype = options.torch_device(), options.torch_dtype()
        self._network = load_network(folder, device=device, dtype=dtype)
        self._tokenizer = Tokenizer(folder)
        config = self._network.config
        if self._tokenizer.max_token_id >= config.vocab_size:
            raise CheckpointError(
                f"{folder}: tokenizer.json has the token id {self._tokenizer.max_token_id} and "
                f"the network {config.vocab_size} rows; they belong to different models"
            )
        self._max_model_len = options.model_len(config)
        self._card = _card(folder, self._network, self._max_model_len, self._tokenizer)
        self._worker: Worker[Delta | Finish] = Worker("cloud-engine")
        self._closed = False

    def card(self) -> ModelCard:
        """Return what this engine runs."""
        return self._card

    async def generate(self, request: Request) -> AsyncIterator[Delta | Finish]:
        """Stream an answer; see offload.engine.Engine."""
        if self._closed:
            raise RequestError("this engine is closed; start a new one")
        received_s = time.monotonic()

        def start(cancelled: threading.Event) -> Iterator[Delta | Finish]:
            work = Generation(
                request, self._network, self._tokenizer, self._max_model_len, received_s
            )
            return work.run(cancelled)

        async with aclosing(self._worker.stream(start)) as items:  # type: ignore[type-var]
            async for item in items:
                yield item

    async def aclose(self) -> None:
        """End the engine's thread."""
        self._closed = True
        self._worker.close()


def _card(folder: Path, network: Network, max_model_len: int, tokenizer: Tokenizer) -> ModelCard:
    weights = list(network.parameters())  # a shared head counts once
    dtype = str(weights[0].dtype).removeprefix("torch.")
    return ModelCard(
        name=folder.resolve().name,
        architecture=network.config.model_type,
        runtime="torch",
        num_parameters=sum(w.numel() for w in weights),
        quantization={"bfloat16": "bf16", "float16": "f16", "float32": "f32"}[dtype],
        size_bytes=sum(w.numel() * w.element_size() for w in weights),
        max_model_len=max_model_len,
        chat=tokenizer.chat_template is not None,
    )
