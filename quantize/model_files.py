"""Model files: a Hugging Face folder or a GGUF file, as what a torch runtime asks of either."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from backbone.checkpoint import (
    fingerprint,
    open_safetensors,
    sampled,
    stored_modules,
    weight_files,
)
from backbone.config import NetworkConfig
from backbone.errors import CheckpointError, require_few_tensors
from backbone.stored_parts import Parts
from backbone.tokenizer import Tokenizer
from quantize.gguf_config import gguf_config
from quantize.gguf_header import GgufHeader, num_elements, read_header
from quantize.gguf_reader import require_gguf
from quantize.gguf_tensors import gguf_modules
from quantize.gguf_tokenizer import gguf_tokenizer
from quantize.weights import read_config

if TYPE_CHECKING:
    import torch

_FLOATS = {"F64", "F32", "F16", "BF16"}
_ITEM_BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2}


class ModelFiles(Protocol):
    """The files of one model. What is wrong with them is raised as CheckpointError."""

    path: Path

    def network_config(self) -> NetworkConfig:
        """Return the network's shape."""
        ...

    def quantization_config(self) -> Mapping[str, Any]:
        """Return how matrices are quantized that stay so; empty where they are decoded."""
        ...

    def quantization_name(self) -> str:
        """Return what a person calls the weights: "gptq int4", "nf4", "q4_k_m", "bfloat16"."""
        ...

    def tokenizer(self) -> Tokenizer:
        """Return the tokenizer, with its chat templates."""
        ...

    def modules(self, stack: ExitStack) -> Iterator[tuple[str, Parts]]:
        """Yield each module's tensors; files stay open in `stack`."""
        ...

    def weight_bytes(self, dtype: torch.dtype) -> int:
        """Return what the weights take once they are loaded, from the headers of the files."""
        ...

    @property
    def stored_bytes(self) -> int:
        """Bytes of the weights' files."""
        ...

    def fingerprint(self) -> str:
        """Return the model's stable id."""
        ...


def model_files(path: Path) -> ModelFiles:
    """Return the files of a folder, or of a GGUF file. Raises CheckpointError."""
    return GgufFiles(path) if path.is_file() else FolderFiles(path)


class FolderFiles:
    """A Hugging Face folder: config.json, safetensors, tokenizer.json."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def network_config(self) -> NetworkConfig:
        """See ModelFiles."""
        return NetworkConfig.load(self.path)

    def quantization_config(self) -> Mapping[str, Any]:
        """See ModelFiles."""
        config = dict(read_config(self.path).get("quantization_config") or {})
        check_readable(self.path, config)
        return config

    def quantization_name(self) -> str:
        """See ModelFiles."""
        config = self.quantization_config()
        if config.get("quant_method") == "gptq":
            return f"gptq int{config.get('bits', '?')}"
        if config.get("load_in_8bit"):
            return "int8"
        if config:
            return str(config.get("bnb_4bit_quant_type", config.get("quant_method")))
        raw = read_config(self.path)
        return str(raw.get("dtype") or raw.get("torch_dtype") or "float32")

    def tokenizer(self) -> Tokenizer:
        """See ModelFiles."""
        return Tokenizer(self.path)

    def modules(self, stack: ExitStack) -> Iterator[tuple[str, Parts]]:
        """See ModelFiles."""
        return stored_modules(weight_files(self.path), stack)

    def weight_bytes(self, dtype: torch.dtype) -> int:
        """See ModelFiles."""
        total = num_tensors = 0
        for path in weight_files(self.path):
            with open_safetensors(path) as file:
                names = file.keys()
                num_tensors += len(names)
                require_few_tensors(self.path, num_tensors)
                total += sum(_slice_bytes(file.get_slice(name), dtype) for name in names)
        return total

    @property
    def stored_bytes(self) -> int:
        """See ModelFiles."""
        return sum(file.stat().st_size for file in self.path.glob("*.safetensors"))

    def fingerprint(self) -> str:
        """See ModelFiles."""
        return fingerprint(self.path)


class GgufFiles:
    """A GGUF file: settings, tokenizer and weights in one, which are decoded at loading."""

    def __init__(self, path: Path) -> None:
        require_gguf()
        self.path = path

    @cached_property
    def header(self) -> GgufHeader:
        """What the file says before its weights."""
        return read_header(self.path)

    @cached_property
    def _config(self) -> dict[str, Any]:
        return gguf_config(self.header)

    def network_config(self) -> NetworkConfig:
        """See ModelFiles."""
        return NetworkConfig.from_hf(self._config)

    def quantization_config(self) -> Mapping[str, Any]:
        """See ModelFiles."""
        return {}

    def quantization_name(self) -> str:
        """See ModelFiles."""
        from gguf import LlamaFileType

        try:
            kind = str(LlamaFileType(self.header.metadata.get("general.file_type", -1)).name)
        except ValueError:
            return "gguf"
        return kind.removeprefix("MOSTLY_").removeprefix("ALL_").lower()

    def tokenizer(self) -> Tokenizer:
        """See ModelFiles."""
        return Tokenizer(gguf_tokenizer(self.header))

    def modules(self, stack: ExitStack) -> Iterator[tuple[str, Parts]]:
        """See ModelFiles."""
        return gguf_modules(self.header, self._config)

    def weight_bytes(self, dtype: torch.dtype) -> int:
        """See ModelFiles."""
        return sum(map(num_elements, self.header.tensors.values())) * dtype.itemsize

    @property
    def stored_bytes(self) -> int:
        """See ModelFiles."""
        return self.path.stat().st_size

    def fingerprint(self) -> str:
        """See ModelFiles."""
        size = self.stored_bytes
        digest = hashlib.sha256(str(size).encode())
        for piece in sampled(self.path, size):
            digest.update(piece)
        return digest.hexdigest()


def check_readable(folder: Path, quantization: Mapping[str, Any]) -> None:
    """Raise CheckpointError for a kind of GPTQ or bitsandbytes folder that is not read here.

    `quantization` is what config.json says under `quantization_config`, empty for nothing.
    """
    reason = _reason(folder, quantization)
    if reason:
        raise CheckpointError(
            f"{folder} {reason}; quantize the original with `nearfar quantize gptq`"
        )


def _reason(folder: Path, quantization: Mapping[str, Any]) -> str | None:
    if not quantization and (folder / "quantize_config.json").is_file():
        return (
            "says how it is quantized in quantize_config.json alone, as old AutoGPTQ did, and "
            "config.json is what is read: put that under quantization_config there"
        )
    method = quantization.get("quant_method")
    if quantization and method not in ("gptq", "bitsandbytes"):
        return f"is quantized by {method!r}, and torch reads gptq and bitsandbytes here"
    words = str(quantization.get("pack_dtype") or "int32").removeprefix("torch.")
    if method == "gptq" and words != "int32":
        return f"packs its weights into {words} (pack_dtype), and int32 is read"
    return None


def tokenizer_of(files: ModelFiles, folder: Path | None, config: NetworkConfig) -> Tokenizer:
    """Return a model's tokenizer, or that of another folder. Raises CheckpointError.

    One with more tokens than the network has rows belongs to another model.
    """
    tokenizer = files.tokenizer() if folder is None else Tokenizer(folder)
    tokenizer.prepare_chat()
    if tokenizer.max_token_id >= config.vocab_size:
        raise CheckpointError(
            f"{folder or files.path}: tokenizer.json has the token id {tokenizer.max_token_id} and "
            f"the network {config.vocab_size} rows; they belong to different models"
        )
    return tokenizer


def _slice_bytes(piece: Any, dtype: torch.dtype) -> int:
    kind, size = piece.get_dtype(), 1
    for extent in piece.get_shape():
        size *= extent
    return size * (dtype.itemsize if kind in _FLOATS else _ITEM_BYTES.get(kind, 1))
