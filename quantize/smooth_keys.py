"""Key smoothing: evens out a GGUF's key channels, so that a compressed KV cache loses less.

Models with key biases (Qwen2, Qwen2.5) have a few key channels that are a hundred times larger
than the others; in a block of few bits they take the precision of their neighbours. Here a
channel's keys are divided by a power of two and its queries multiplied by the same, so that every
score stays as it was: only exponents change, no weight is rounded again. Both channels of a rotary
pair get one factor, since a rotation mixes them. Source: SmoothAttention, Lin et al., "QServe",
arXiv 2405.04532, section 4.2, which goes by the largest keys of a calibration text where this goes
by the biases.
"""

from __future__ import annotations

import shutil
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backbone.errors import CheckpointError
from backbone.files import SHARED, replacement
from quantize.gguf import check_space, check_target
from quantize.gguf_reader import open_gguf

FLOOR = 2.0  # pairs below this norm are left alone; larger ones are brought down to it
MAX_EXPONENT = 12
MARK = "nearfar.smooth_keys"  # the metadata that tells a smoothed file
BOOL = 7  # GGUF's number of the type
NUM_ENTRIES_AT = 16  # behind the magic number, the version and the number of tensors
FAMILIES = ("qwen2", "qwen2moe", "qwen2vl")  # channel i turns with channel i + head_dim / 2

# Where a block of a type keeps its float16 scales: the bytes of a block, and the range of theirs.
# Source: the block structures of ggml-common.h.
SCALES: Mapping[str, tuple[int, int, int]] = {
    "F16": (2, 0, 2),
    "Q4_0": (18, 0, 2),
    "Q4_1": (20, 0, 4),
    "Q5_0": (22, 0, 2),
    "Q5_1": (24, 0, 4),
    "Q8_0": (34, 0, 2),
    "IQ4_NL": (18, 0, 2),
    "Q2_K": (84, 80, 84),
    "Q3_K": (110, 108, 110),
    "Q4_K": (144, 0, 4),
    "Q5_K": (176, 0, 4),
    "Q6_K": (210, 208, 210),
    "IQ4_XS": (136, 0, 2),
}

Exponents = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Smoothed:
    """Smoothed file; `largest_before` and `largest_after` are norms of a pair's key biases."""

    path: Path
    size_bytes: int
    num_pairs: int
    num_smoothed: int
    largest_before: float
    largest_after: float


def smooth_keys(source: Path, target: Path) -> Smoothed:
    """Write `target`, a copy of the GGUF `source` with smoothed keys.

    Raises CheckpointError for a file that is none, of another family, without key biases or with
    weights of a type that has no scale to change; NearfarError for a wrong target or too little
    space.
    """
    source, target = Path(source), Path(target)
    check_target(source, target)
    open_gguf(source)
    check_space(target, source.stat().st_size)
    with replacement(target, mode=SHARED) as part:
        _copy_marked(source, part)
        done = _smooth_file(part, source)
    before, after = done[0].max(initial=0.0), (done[0] * np.exp2(-done[1])).max(initial=0.0)
    return Smoothed(
        path=target,
        size_bytes=target.stat().st_size,
        num_pairs=done[0].size,
        num_smoothed=int((done[1] > 0).sum()),
        largest_before=float(before),
        largest_after=float(after),
    )


def _copy_marked(source: Path, target: Path) -> None:
    """Copy a GGUF and add one entry to its metadata: that its keys are smooth."""
    reader = open_gguf(source)
    infos = [tensor.field for tensor in reader.tensors]
    if MARK in reader.fields or not infos or reader.byte_order != "I":
        state = "smooth already" if MARK in reader.fields else "not to be changed in place"
        raise CheckpointError(f"{source} is {state}; use it as it is")
    entry = struct.pack("<Q", len(MARK)) + MARK.encode() + struct.pack("<IB", BOOL, 1)
    begin, end = infos[0].offset, infos[-1].offset + sum(part.nbytes for part in infos[-1].parts)
    with source.open("rb") as old, target.open("wb") as new:
        head = bytearray(old.read(end))
        (num_entries,) = struct.unpack_from("<Q", head, NUM_ENTRIES_AT)
        struct.pack_into("<Q", head, NUM_ENTRIES_AT, num_entries + 1)
        head[begin:begin] = entry
        new.write(head + bytes(-len(head) % reader.alignment))
        old.seek(reader.data_offset)
        shutil.copyfileobj(old, new, 1 << 22)


def _smooth_file(path: Path, source: Path) -> tuple[NDArray[np.float32], Exponents]:
    """Change the file's layers in place; return each pair's norm and its exponent."""
    reader = open_gguf(path, mode="r+")
    family = str(reader.fields["general.architecture"].contents())
    if family not in FAMILIES:
        raise CheckpointError(
            f"{source} is a {family} model; keys are smoothed where they have biases, in "
            f"{', '.join(FAMILIES)}"
        )
    num_heads, num_kv_heads, num_layers = (
        int(reader.fields[f"{family}.{key}"].contents())
        for key in ("attention.head_count", "attention.head_count_kv", "block_count")
    )
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    layers = [
        QkLayer(tensors, index, num_heads, num_kv_heads, source) for index in range(num_layers)
    ]
    norms, exponents = zip(*(layer.smooth() for layer in layers), strict=True)
    for tensor in tensors.values():
        if isinstance(tensor.data.base, np.memmap):
            tensor.data.base.flush()
            break
    return np.stack(norms), np.stack(exponents)


class QkLayer:
    """The query and key projections of one layer, as rows whose scales can be changed in place."""

    def __init__(
        self,
        tensors: Mapping[str, Any],
        index: int,
        num_heads: int,
        num_kv_heads: int,
        source: Path,
    ) -> None:
        names = [
            f"blk.{index}.attn_{each}" for each in ("q.weight", "q.bias", "k.weight", "k.bias")
        ]
        missing = [name for name in names if name not in tensors]
        if missing:
            raise CheckpointError(f"{source} has no {missing[0]}; its keys cannot be smoothed")
        self._query, self._query_bias, self._key, self._key_bias = (
            _scales(tensors[name], source) for name in names
        )
        self._num_kv_heads, self._num_shared = num_kv_heads, num_heads // num_kv_heads

    def smooth(self) -> tuple[NDArray[np.float32], Exponents]:
        """Divide large keys and multiply their queries; return norms and exponents, [pairs]."""
        first, second = np.split(self._key_bias.reshape(self._num_kv_heads, -1), 2, axis=1)
        norms = np.hypot(first, second)  # [kv_heads, head_dim / 2]
        wanted = np.rint(np.log2(np.maximum(norms, FLOOR) / FLOOR)).astype(np.int64)
        exponents = np.minimum(wanted, self._bearable(wanted.max(initial=0)))
        rows = np.concatenate([exponents, exponents], axis=1)  # [kv_heads, head_dim]
        queries = np.repeat(rows, self._num_shared, axis=0).reshape(-1)
        for numbers, power in (
            (self._key, -rows.reshape(-1)),
            (self._key_bias, -rows.reshape(-1)),
            (self._query, queries),
            (self._query_bias, queries),
        ):
            _multiply(numbers, power)
        return norms.reshape(-1), exponents.reshape(-1)

    def _bearable(self, limit: int) -> Exponents:
        """Return how far each pair can go with every scale exact, [kv_heads, head_dim / 2]."""
        rows = np.zeros(len(self._key), dtype=np.int64)
        going = np.ones(len(self._key), dtype=bool)
        for power in range(1, min(int(limit), MAX_EXPONENT) + 1):
            going &= _is_exact(self._key, -power) & self._queries_bear(power)
            rows[going] = power
        first, second = np.split(rows.reshape(self._num_kv_heads, -1), 2, axis=1)
        return np.minimum(first, second)

    def _queries_bear(self, power: int) -> NDArray[np.bool_]:
        """Return for each key row whether the queries that read it stay exact."""
        exact = _is_exact(self._query, power)
        return exact.reshape(self._num_kv_heads, self._num_shared, -1).all(axis=1).reshape(-1)


def _scales(tensor: Any, source: Path) -> NDArray[Any]:
    """Return the numbers that a tensor's rows are proportional to, a writable view, [rows, n]."""
    kind = tensor.tensor_type.name
    if kind == "F32":
        numbers: NDArray[Any] = tensor.data
        return numbers.reshape(len(numbers), -1) if numbers.ndim > 1 else numbers
    if kind not in SCALES:
        raise CheckpointError(
            f"{source} stores {tensor.name} as {kind}, whose scale cannot be changed; take a file "
            f"in {', '.join(SCALES)}"
        )
    size, low, high = SCALES[kind]
    blocks = tensor.data.view(np.uint8).reshape(len(tensor.data), -1, size)
    halves = blocks.view(np.float16)[:, :, low // 2 : high // 2]
    assert halves.base is not None, "a copy would leave the file as it was"
    scales: NDArray[Any] = halves
    return scales


def _is_exact(numbers: NDArray[Any], power: int) -> NDArray[np.bool_]:
    """Return for each row whether all of it can be multiplied by 2**power without rounding."""
    moved = np.ldexp(numbers, power)
    exact = (np.ldexp(moved, -power) == numbers) & np.isfinite(moved)
    return exact.reshape(len(numbers), -1).all(axis=1)  # type: ignore[no-any-return]


def _multiply(numbers: NDArray[Any], power: Exponents) -> None:
    """Multiply each row by 2**power, in place."""
    shape = (-1, *(1 for _ in numbers.shape[1:]))
    numbers[...] = np.ldexp(numbers, power.reshape(shape))
