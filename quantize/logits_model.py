"""Any model on disk, opened only to see what it predicts: GGUF, HF folder, GPTQ, bitsandbytes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from backbone.errors import CheckpointError
from quantize.weights import read_config


class LogitsModel(Protocol):
    """Model that gives logits, whatever its format."""

    def logits(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Return float32 [len(tokens), vocab_size], the prediction after each token."""
        ...

    def close(self) -> None:
        """Free the model."""
        ...


class TorchModel:
    """Torch model: a network of our own, plain or dequantized from GPTQ."""

    def __init__(self, network: Any) -> None:
        self._network = network

    def logits(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Return float32 [len(tokens), vocab_size]."""
        import torch

        from backbone.attention import causal_attention

        ids = torch.tensor([list(tokens)])
        positions = torch.arange(ids.shape[1]).unsqueeze(0)
        with torch.no_grad():
            hidden = self._network(ids, positions, causal_attention(self._network.config))
            return np.asarray(self._network.logits(hidden)[0].numpy(), dtype=np.float32)

    def close(self) -> None:
        """Forget the weights."""
        self._network = None


class TransformersModel:
    """Transformers model: a bitsandbytes folder, which only transformers reads."""

    def __init__(self, folder: Path) -> None:
        from quantize.bnb import load_bnb

        self._model = load_bnb(folder)

    def logits(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Return float32 [len(tokens), vocab_size]."""
        import torch

        with torch.no_grad():
            found = self._model(torch.tensor([list(tokens)])).logits[0].float()
        return np.asarray(found.numpy(), dtype=np.float32)

    def close(self) -> None:
        """Forget the weights."""
        self._model = None


def format_of(path: Path) -> str:
    """Return "gguf", "gptq", "bitsandbytes" or "safetensors". Raises CheckpointError for others."""
    if path.is_file():
        return "gguf"
    if not path.exists():
        raise CheckpointError(f"{path} does not exist; name a GGUF file or a Hugging Face folder")
    quantization = read_config(path).get("quantization_config")
    if not quantization:
        return "safetensors"
    method = str(quantization.get("quant_method", "unknown"))
    if method not in ("gptq", "bitsandbytes"):
        raise CheckpointError(
            f"{path} is quantized by {method!r}, which cannot be judged here; convert it to GGUF"
        )
    return method


def prepare(path: Path) -> None:
    """Import what `open_model` needs, so that its memory is not taken for the model's.

    Raises CheckpointError for an unknown format, MissingExtra without its packages.
    """
    kind = format_of(path)
    if kind == "bitsandbytes":
        from quantize.bnb import require

        require()
        import transformers  # noqa: F401
    if kind == "gguf":
        import llama_cpp  # noqa: F401

        import quantize.gguf_reader
        import quantize.llama_model
    else:
        import quantize.loading  # noqa: F401


def require_format(path: Path) -> None:
    """Raise what `open_model` would raise without reading a weight."""
    if format_of(path) == "bitsandbytes":
        from quantize.bnb import require

        require()


def open_model(path: Path, *, context_len: int, num_threads: int) -> LogitsModel:
    """Load a model of any of the formats on the CPU."""
    kind = format_of(path)
    if kind == "gguf":
        from quantize.gguf_reader import inspect
        from quantize.llama_model import LlamaModel

        inspect(path)  # says more of a damaged file than llama.cpp does
        return LlamaModel(path, context_len=context_len, num_threads=num_threads)
    import torch

    torch.set_num_threads(num_threads)
    if kind == "bitsandbytes":
        return TransformersModel(path)
    from quantize.loading import as_decoded, read_network
    from quantize.model_files import FolderFiles

    return TorchModel(read_network(FolderFiles(path), made=as_decoded))


def size_of(path: Path) -> int:
    """Return the bytes of a model's weights on disk, tokenizer and settings of a folder not."""
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.glob("*.safetensors"))
