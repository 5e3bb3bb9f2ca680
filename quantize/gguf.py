"""Hugging Face folder or GGUF in, GGUF of any type out; no torch, one tensor in memory at a time.

An HF folder is first written as a plain GGUF in the checkpoint's own precision; llama.cpp's
quantizer makes the rest of it. Every file appears whole, under its name, or not at all.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from backbone.errors import CheckpointError, NearfarError
from backbone.files import SHARED, replacement, scratch_file
from backbone.terminal_text import readable_bytes
from quantize.gguf_reader import inspect
from quantize.gguf_writer import Checkpoint, Progress, open_checkpoint, write_plain
from quantize.llama_quantizer import PLAIN_KINDS, file_type, requantize

# A GGUF of this kind is never larger than this share of float32, with room for metadata.
_PLAIN_BYTES = {"f32": 4, "f16": 2, "bf16": 2}
_METADATA_BYTES = 16 << 20


@dataclass(frozen=True, kw_only=True)
class QuantizeOptions:
    """How to quantize: types by tensor, importance by tensor, threads (0 means all)."""

    kind: str = "q4_k_m"
    overrides: Mapping[str, str] = field(default_factory=dict)
    importance: Mapping[str, NDArray[np.float32]] | None = None
    allow_requantize: bool = False
    num_threads: int = 0

    def __post_init__(self) -> None:
        file_type(self.kind)
        if self.kind in PLAIN_KINDS and self.overrides:
            raise NearfarError(
                f"per-tensor types need a quantized kind, not {self.kind}; choose q4_k_m, say"
            )


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """Conversion result: sizes in bytes, the type of every tensor, and what is not the same."""

    path: Path
    kind: str
    size_bytes: int
    num_parameters: int
    bits_per_weight: float
    tensor_types: Mapping[str, str]
    notes: tuple[str, ...]


def convert(
    source: Path,
    target: Path,
    *,
    kind: str = "q4_k_m",
    overrides: Mapping[str, str] | None = None,
    importance: Mapping[str, NDArray[np.float32]] | None = None,
    allow_requantize: bool = False,
    num_threads: int = 0,
    progress: Progress | None = None,
) -> Conversion:
    """Write `target` as a GGUF of type `kind` from an HF folder or another GGUF.

    `overrides` maps regular expressions of GGUF tensor names to types ("ffn_down": "q8_0");
    `importance` maps GGUF tensor names to the mean squared input per column, float32 [in].
    Raises CheckpointError for a source that cannot be converted, NearfarError for an unknown
    type, a wrong target or too little space.
    """
    options = QuantizeOptions(
        kind=kind,
        overrides=overrides or {},
        importance=importance,
        allow_requantize=allow_requantize,
        num_threads=num_threads,
    )
    source, target = Path(source), Path(target)
    check_target(source, target)
    with replacement(target, mode=SHARED) as part:
        if source.is_dir():
            notes = _from_folder(open_checkpoint(source), part, options, progress)
        else:
            notes = _from_gguf(source, part, options, progress)
        written = inspect(part)
    return Conversion(
        path=target,
        kind=kind,
        size_bytes=target.stat().st_size,
        num_parameters=sum(written.num_weights.values()),
        bits_per_weight=written.bits_per_weight,
        tensor_types=written.types,
        notes=notes,
    )


def _from_folder(
    checkpoint: Checkpoint, part: Path, options: QuantizeOptions, progress: Progress | None
) -> tuple[str, ...]:
    native = checkpoint.native_kind
    weights = checkpoint.num_parameters
    if options.kind in PLAIN_KINDS:
        check_space(part, weights * _PLAIN_BYTES[options.kind])
        write_plain(checkpoint, part, kind=options.kind, progress=progress)
        return checkpoint.notes
    # Both files exist at once for a moment; no quantized type takes more than nine bits.
    check_space(part, weights * _PLAIN_BYTES[native] + weights * 9 // 8)
    with scratch_file(part, native) as plain:
        write_plain(checkpoint, plain, kind=native, progress=_half(progress, 0))
        _quantize(plain, part, options, _half(progress, 1))
    return checkpoint.notes


def _half(progress: Progress | None, which: int) -> Progress | None:
    """Return what tells of one of two passes over all tensors."""
    return progress and (lambda done, total: progress(which * total + done, 2 * total))


def _from_gguf(
    source: Path, part: Path, options: QuantizeOptions, progress: Progress | None
) -> tuple[str, ...]:
    stored = inspect(source)
    if stored.is_quantized and not options.allow_requantize:
        raise CheckpointError(
            f"{source} is already quantized, and doing it twice loses twice; start from the "
            "full-precision model, or ask for it with allow_requantize"
        )
    weights = sum(stored.num_weights.values())
    check_space(part, weights * _PLAIN_BYTES.get(options.kind, 2))
    _quantize(source, part, options, progress)
    return ()


def _quantize(
    source: Path, target: Path, options: QuantizeOptions, progress: Progress | None
) -> None:
    requantize(
        source,
        target,
        kind=options.kind,
        overrides=options.overrides,
        importance=options.importance,
        allow_requantize=options.allow_requantize,
        num_threads=options.num_threads,
        progress=progress,
    )


def check_target(source: Path, target: Path) -> None:
    """Make the target's folder. Raises NearfarError or CheckpointError where either is wrong."""
    if target.is_dir():
        raise NearfarError(f"{target} is a folder; name the GGUF file to write")
    if target.exists() and source.exists() and target.samefile(source):
        raise NearfarError(f"{target} is the source itself; name another file")
    if not source.exists():
        raise CheckpointError(f"{source} does not exist; name a Hugging Face folder or a GGUF file")
    if not (source.is_dir() or source.is_file()):
        raise CheckpointError(f"{source} is a pipe or a device; name a folder or a GGUF file")
    target.parent.mkdir(parents=True, exist_ok=True)


def check_space(path: Path, num_bytes: int) -> None:
    """Raise NearfarError where the disk has no room for a file of so many bytes."""
    needed = num_bytes + _METADATA_BYTES
    free = shutil.disk_usage(path.parent).free
    if free < needed:
        raise NearfarError(
            f"writing needs {readable_bytes(needed)} in {path.parent} but "
            f"{readable_bytes(free)} are free; free some space or write to another disk"
        )
