"""GGUF reader: what a file holds, without loading its weights, through the `gguf` package."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from backbone.errors import CheckpointError, MissingExtra
from quantize.gguf_header import num_bytes, num_elements, read_header, require_whole


def require_gguf() -> None:
    """Raise MissingExtra where the package is not installed."""
    try:
        import gguf  # noqa: F401
    except ImportError:
        raise MissingExtra("gguf", "quantize") from None


UNQUANTIZED = ("F32", "F16", "BF16", "F64")


@dataclass(frozen=True, kw_only=True)
class StoredGguf:
    """Stored GGUF: its architecture, and each tensor's type, number of weights and bytes."""

    architecture: str
    types: Mapping[str, str]
    num_weights: Mapping[str, int]
    num_bytes: Mapping[str, int]

    @property
    def bits_per_weight(self) -> float:
        """Return the tensors' bits over their weights, metadata not counted."""
        return 8 * sum(self.num_bytes.values()) / sum(self.num_weights.values())

    @property
    def is_quantized(self) -> bool:
        """Tell whether any tensor has lost precision already."""
        return any(name not in UNQUANTIZED for name in self.types.values())


def inspect(path: Path) -> StoredGguf:
    """Read the header of a GGUF file. Raises CheckpointError where it is none or is cut off."""
    require_gguf()
    header = read_header(path)
    for name, tensor in header.tensors.items():
        require_whole(path, name, tensor)
    from gguf import GGMLQuantizationType

    return StoredGguf(
        architecture=header.architecture,
        types={n: GGMLQuantizationType(t.kind).name for n, t in header.tensors.items()},
        num_weights={n: num_elements(t) for n, t in header.tensors.items()},
        num_bytes={n: num_bytes(t) for n, t in header.tensors.items()},
    )


def open_gguf(path: Path, mode: Literal["r", "r+"] = "r") -> Any:
    """Return the `gguf` package's reader of a file; "r+" writes tensors changed in place back.

    Raises CheckpointError where the file is none or is cut off.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; name a GGUF file or a Hugging Face folder")
    require_gguf()
    from gguf import GGUFReader

    try:
        reader = GGUFReader(path, mode)
        str(reader.fields["general.architecture"].contents())
        return reader
    except (
        *(ValueError, KeyError, IndexError, TypeError, OverflowError, MemoryError, RecursionError),
    ) as error:
        raise CheckpointError(
            f"{path} is no complete GGUF file ({error}); fetch the model again"
        ) from None
