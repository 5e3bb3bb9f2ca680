"""GGUF tensors: decoded to float32 by the names and in the order of a Hugging Face checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from backbone.errors import CheckpointError
from backbone.stored_parts import Parts, StoredPiece
from quantize.architectures import ARCHITECTURES, Architecture, Config, as_in_checkpoint
from quantize.gguf_header import GgufHeader, GgufTensor, num_bytes, require_whole

_TOP = {"token_embd": "embed_tokens", "output_norm": "norm", "output": "lm_head"}
_COMPUTED = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
_PLAIN = {"F32": "<f4", "F16": "<f2", "F64": "<f8"}


def gguf_modules(header: GgufHeader, config: Config) -> Iterator[tuple[str, Parts]]:
    """Yield each module's name in a Network with its tensors, decoded when they are read.

    `config` is what gguf_config makes of the header. Raises CheckpointError for a tensor that has
    no place in the network or cannot be read.
    """
    architecture = ARCHITECTURES[config["model_type"]]
    modules: dict[str, dict[str, StoredPiece]] = {}
    for name, tensor in header.tensors.items():
        if name not in _COMPUTED:
            require_readable(header.path, name, tensor)
            stem, _, leaf = name.rpartition(".")
            for module, part in _parts(_module(architecture, stem), tensor, config):
                piece = _GgufPiece(header.path, part, name, architecture, config)
                stored = StoredPiece(name, header.path.name, piece)
                modules.setdefault(module, {})[leaf] = stored
    yield from modules.items()


def _parts(module: str, tensor: GgufTensor, config: Config) -> Iterator[tuple[str, GgufTensor]]:
    """Yield a module and its tensor; of a stack of experts each one's own."""
    before, experts, after = module.partition(".experts.")
    if not experts:
        yield module, tensor
        return
    count = config["num_experts"]
    if len(tensor.shape) != 3 or tensor.shape[0] != count:
        raise CheckpointError(
            f"{module} is {list(tensor.shape)} and not a stack of {count} experts; fetch the model "
            "again"
        )
    step = num_bytes(tensor) // count
    for number in range(count):
        part = replace(tensor, shape=tensor.shape[1:], start=tensor.start + number * step)
        yield f"{before}.experts.{number}.{after}", part


def require_readable(path: Path, name: str, tensor: GgufTensor) -> None:
    """Raise CheckpointError for a type that cannot be decoded, or a tensor that is cut off."""
    from gguf import GGMLQuantizationType

    require_whole(path, name, tensor)
    kind = GGMLQuantizationType(tensor.kind)
    if not _can_decode(kind):
        raise CheckpointError(
            f"{path.name} stores {name} as {kind.name}, which torch cannot decode here; use a "
            "file of K or legacy quants (q4_k_m, q8_0, ...)"
        )


@cache
def _can_decode(kind: Any) -> bool:
    from gguf import GGML_QUANT_SIZES, quants

    if kind.name in _PLAIN:
        return True
    try:
        quants.dequantize(np.zeros((1, GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
    except NotImplementedError:
        return False
    return True


def decoded(path: Path, tensor: GgufTensor) -> NDArray[np.float32]:
    """Return a tensor's numbers, float32 in its shape."""
    from gguf import GGMLQuantizationType, quants

    raw = np.fromfile(path, np.uint8, count=num_bytes(tensor), offset=tensor.start)
    kind = GGMLQuantizationType(tensor.kind)
    if kind.name in _PLAIN:
        return raw.view(_PLAIN[kind.name]).reshape(tensor.shape).astype(np.float32)
    rows = raw.reshape(*tensor.shape[:-1], -1)
    found: NDArray[np.float32] = quants.dequantize(rows, kind).astype(np.float32, copy=False)
    return found.reshape(tensor.shape)


def _module(architecture: Architecture, name: str) -> str:
    if name in _TOP:
        return _TOP[name]
    blk, number, kind = (*name.split(".", 2), "", "")[:3]
    found = {theirs: ours for ours, theirs in architecture.layer.items()}.get(kind)
    if blk != "blk" or found is None:
        raise CheckpointError(
            f"tensor {name} is not part of a {architecture.gguf} model that torch runs here; run "
            "the file with llama.cpp (nearfar chat -m FILE)"
        )
    return f"layers.{number}.{found}"


@dataclass(frozen=True)
class _GgufPiece:
    """A tensor that is decoded when it is indexed."""

    path: Path
    tensor: GgufTensor
    name: str
    architecture: Architecture
    config: Config

    def get_shape(self) -> list[int]:
        return list(self.tensor.shape)

    def get_dtype(self) -> str:
        return "F32"  # once it is decoded

    def __getitem__(self, index: Any) -> Tensor:
        values = decoded(self.path, self.tensor)
        if self.name.endswith("norm.weight") and self.architecture.norm_offset:
            values = values - np.float32(self.architecture.norm_offset)
        values = as_in_checkpoint(self.architecture, self.config, self.name, values)
        return torch.from_numpy(values)[index]
