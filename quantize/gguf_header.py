"""GGUF header: a file's metadata and where its tensors lie, read in one pass over a mapped file.

The `gguf` package takes half a minute for a vocabulary of 262,000 tokens, which it holds as arrays
of numpy one by one; this takes a quarter of a second. Source: ggml/docs/gguf.md.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backbone.errors import CheckpointError, require_few_tensors

_FORMATS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
_TEXT, _ARRAY = 8, 9
_DEPTH = 4  # of arrays within arrays; files have one
_MOST_DIMENSIONS = 4
_VERSIONS = (2, 3)

_DAMAGE = (ValueError, KeyError, IndexError, struct.error, OverflowError, MemoryError)


@dataclass(frozen=True, kw_only=True)
class GgufTensor:
    """Where one tensor lies: its type's number, its shape [out, in], and its place in the file."""

    kind: int
    shape: tuple[int, ...]
    start: int


@dataclass(frozen=True, kw_only=True)
class GgufHeader:
    """What a file says before its weights."""

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, GgufTensor]

    @property
    def architecture(self) -> str:
        """Return the architecture's name."""
        return str(self.metadata["general.architecture"])

    def setting(self, key: str, default: Any = None) -> Any:
        """Return a setting of the architecture, as "block_count"."""
        return self.metadata.get(f"{self.architecture}.{key}", default)


def read_header(path: Path) -> GgufHeader:
    """Read the header of a GGUF file. Raises CheckpointError where it is none or is cut off."""
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; name a GGUF file or a Hugging Face folder")
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as raw:
            header = _Cursor(raw).header(path)
        str(header.metadata["general.architecture"])
    except (
        *(ValueError, KeyError, IndexError, struct.error, OverflowError, MemoryError),
    ) as error:
        said = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise CheckpointError(
            f"{path} is no complete GGUF file ({said}); fetch the model again"
        ) from None
    if not header.tensors:
        raise CheckpointError(f"{path} has no tensors; it is not a model")
    return header


class _Cursor:
    """Reads numbers and texts from where it stands."""

    def __init__(self, raw: mmap.mmap) -> None:
        self._raw = raw
        self._at = 0

    def header(self, path: Path) -> GgufHeader:
        if self._bytes(4) != b"GGUF":
            raise ValueError("it does not begin with GGUF")
        if (version := self._number("I")) not in _VERSIONS:
            raise ValueError(f"its version is {version}, and {_VERSIONS[-1]} is the newest")
        num_tensors, num_settings = self._count(), self._count()
        require_few_tensors(path, num_tensors)
        metadata = {}
        for _ in range(num_settings):
            key = self._text()
            metadata[key] = self._value(self._number("I"))
        infos = [self._tensor() for _ in range(num_tensors)]
        alignment = int(metadata.get("general.alignment", 32))
        if alignment < 1:
            raise ValueError(f"its alignment is {alignment}")
        base = -(-self._at // alignment) * alignment
        tensors = {
            name: GgufTensor(kind=kind, shape=shape, start=base + offset)
            for name, shape, kind, offset in infos
        }
        return GgufHeader(path=path, metadata=metadata, tensors=tensors)

    def _tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        name, num_dimensions = self._text(), self._number("I")
        if num_dimensions > _MOST_DIMENSIONS:
            raise ValueError(f"tensor {name[:64]!r} has {num_dimensions} dimensions")
        # Stored with the fastest one first.
        shape = tuple(reversed([self._number("Q") for _ in range(num_dimensions)]))
        return name, shape, self._number("I"), self._number("Q")

    def _value(self, kind: int, depth: int = 0) -> Any:
        if kind == _TEXT:
            return self._text()
        if kind == _ARRAY:
            if depth == _DEPTH:
                raise ValueError("arrays are nested too deep")
            return self._array(self._number("I"), self._count(), depth + 1)
        return self._number(_FORMATS[kind])

    def _array(self, kind: int, count: int, depth: int) -> list[Any]:
        if kind not in _FORMATS:
            return [self._value(kind, depth) for _ in range(count)]
        layout = f"<{count}{_FORMATS[kind]}"
        return list(struct.unpack(layout, self._bytes(struct.calcsize(layout))))

    def _count(self) -> int:
        count = int(self._number("Q"))
        # Each takes a byte at least, so that a wrong number cannot ask for all memory.
        if count > len(self._raw) - self._at:
            raise ValueError("it is cut off")
        return count

    def _text(self) -> str:
        return self._bytes(self._count()).decode("utf-8", "replace")

    def _number(self, layout: str) -> Any:
        layout = f"<{layout}"
        return struct.unpack(layout, self._bytes(struct.calcsize(layout)))[0]

    def _bytes(self, count: int) -> bytes:
        if count > len(self._raw) - self._at:
            raise ValueError("it is cut off")
        self._at += count
        return self._raw[self._at - count : self._at]


def num_elements(tensor: GgufTensor) -> int:
    """Return the number of weights of a tensor."""
    return math.prod(tensor.shape)


def num_bytes(tensor: GgufTensor) -> int:
    """Return the bytes of a tensor in its file."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    block, size = GGML_QUANT_SIZES[GGMLQuantizationType(tensor.kind)]
    return int(num_elements(tensor) // block * size)


def require_whole(path: Path, name: str, tensor: GgufTensor) -> None:
    """Raise CheckpointError for a tensor of an unknown type, or one that is cut off."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    try:
        block, _ = GGML_QUANT_SIZES[GGMLQuantizationType(tensor.kind)]
    except (ValueError, KeyError):
        raise CheckpointError(
            f"{path.name} stores {name} as type {tensor.kind}, which is unknown here; quantize "
            "the original with `nearfar quantize gguf`"
        ) from None
    is_even = bool(tensor.shape) and tensor.shape[-1] % block == 0
    if not is_even or tensor.start + num_bytes(tensor) > path.stat().st_size:
        raise CheckpointError(
            f"{path} is no complete GGUF file (it is cut off at the tensor {name}); fetch the "
            "model again"
        )
