"""Weights: safetensors read one tensor at a time, without torch, in one tensor's memory."""

from __future__ import annotations

import math
import operator
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from backbone.config import config_file
from backbone.errors import CheckpointError, cause, require_few_tensors
from backbone.file_reading import MAX_CONFIG_BYTES, read_bytes
from backbone.files import parse_json as parse_json

# Safetensors dtype -> how its bytes are viewed; bfloat16 has no numpy type of its own.
_VIEWS: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
}
_MAX_HEADER_BYTES = 100_000_000


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """Where one tensor lies: its file, type, shape and the bytes [start, stop) in the file."""

    path: Path
    dtype: str  # F32, F16 or BF16
    shape: tuple[int, ...]
    start: int
    stop: int

    def raw(self) -> NDArray[Any]:
        """Return the numbers as stored, bfloat16 as uint16, in the tensor's shape."""
        view = _VIEWS[self.dtype]
        count = (self.stop - self.start) // view.itemsize
        flat = np.fromfile(self.path, dtype=view, count=count, offset=self.start)
        return cast(NDArray[Any], flat.reshape(self.shape))

    def float32(self) -> NDArray[np.float32]:
        """Return the numbers as float32, which holds both half types exactly."""
        return _widened(self.raw(), self.dtype)

    def rows(self, indices: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return some rows of a matrix as float32 [len(indices), columns], reading only those."""
        mapped = np.memmap(
            self.path, dtype=_VIEWS[self.dtype], mode="r", offset=self.start, shape=self.shape
        )
        return _widened(np.asarray(mapped[indices]), self.dtype)


@dataclass(frozen=True, kw_only=True)
class StackedTensors:
    """Tensors of one shape and type that are read as one, [parts, ...]."""

    parts: tuple[StoredTensor, ...]

    @property
    def dtype(self) -> str:
        """Return the type of all of them."""
        return self.parts[0].dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of the whole."""
        return (len(self.parts), *self.parts[0].shape)

    def raw(self) -> NDArray[Any]:
        """See StoredTensor."""
        return np.stack([part.raw() for part in self.parts])

    def float32(self) -> NDArray[np.float32]:
        """See StoredTensor."""
        return _widened(self.raw(), self.dtype)


def _widened(raw: NDArray[Any], dtype: str) -> NDArray[np.float32]:
    if dtype == "BF16":
        return (raw.astype(np.uint32) << 16).view(np.float32)
    return raw.astype(np.float32, copy=False)


def read_config(folder: Path) -> dict[str, Any]:
    """Return the parsed `config.json` of a Hugging Face folder."""
    path = config_file(folder)
    config = _parse(_read(path), path)
    if not isinstance(config.get("quantization_config") or {}, dict):
        raise CheckpointError(f"{path}: quantization_config is no object; fetch the model again")
    # Vision-language checkpoints keep the language model's settings one level down.
    inner = config.get("text_config")
    if not isinstance(inner, dict) or "model_type" not in inner:
        return config
    outer = {key: config[key] for key in ("quantization_config",) if key in config}
    return {**inner, **outer}


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Return every tensor of a folder by name, from one safetensors file or its shards."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        weight_map = _parse(_read(index), index).get("weight_map")
        if not isinstance(weight_map, dict):
            raise CheckpointError(f"{index} has no weight_map; fetch the model again")
        files = sorted({_beside(index, str(name)) for name in weight_map.values()})
    else:
        files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise CheckpointError(
            f"{folder} has no .safetensors file; save the model with safe_serialization=True"
        )
    tensors: dict[str, StoredTensor] = {}
    for file in files:
        tensors |= _file_tensors(file)
    return tensors


def _beside(index: Path, name: str) -> Path:
    """Return the shard of this name; one with a path in it could reach outside the folder."""
    if Path(name).name != name:
        raise CheckpointError(f"{index} names {name!r}, which is no file beside it; fetch it again")
    return index.with_name(name)


def _file_tensors(path: Path) -> dict[str, StoredTensor]:
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; fetch the model again")
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else size
        if length > min(size - 8, _MAX_HEADER_BYTES):
            raise CheckpointError(f"{path} is truncated or no safetensors file; fetch it again")
        header = _parse(file.read(length), path)
    header.pop("__metadata__", None)
    require_few_tensors(path, len(header))
    return {name: _stored(path, size, 8 + length, name, raw) for name, raw in header.items()}


def _stored(path: Path, size: int, base: int, name: str, raw: Any) -> StoredTensor:
    try:
        dtype = str(raw["dtype"])
        first, last = map(operator.index, raw["data_offsets"])
        shape = tuple(map(operator.index, raw["shape"]))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path} is damaged at tensor {name} ({cause(error)}); fetch it again"
        ) from None
    if dtype not in _VIEWS:
        raise CheckpointError(
            f"tensor {name} in {path} is {dtype}; only {', '.join(_VIEWS)} can be converted, "
            "so start from the full-precision model"
        )
    expected = math.prod(shape) * _VIEWS[dtype].itemsize
    is_within = 0 <= first <= last <= size - base
    if not is_within or min(shape, default=0) < 0 or last - first != expected:
        raise CheckpointError(f"{path} is truncated at tensor {name}; fetch it again")
    return StoredTensor(path=path, dtype=dtype, shape=shape, start=base + first, stop=base + last)


def _read(path: Path) -> bytes:
    try:
        return read_bytes(path, MAX_CONFIG_BYTES, pipes=False)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({cause(error)}); fetch it again") from None


def _parse(raw: bytes, path: Path) -> dict[str, Any]:
    try:
        parsed = parse_json(raw)
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged ({error}); fetch the model again") from None
    if not isinstance(parsed, dict):
        raise CheckpointError(f"{path} is not a JSON object; fetch the model again")
    return parsed
