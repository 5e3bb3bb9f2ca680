"""Packed linear layers for a CPU: each weight is laid out once for a step's few rows.

torch multiplies by a weight as checkpoints hold it, [out, in], which MKL must turn at every call.
Measured in float32 on one thread, 8 rows: a weight of [1536, 256] takes two thirds of the time when
it is stored turned, one of [4096, 768] about half when it is stored in oneDNN's blocks. For one row
turned ones take two thirds of the time of blocks (a layer of SmolLM2-135M: 0.92 ms, as it lies
1.13, blocks 1.46; eight rows 2.2, 2.5, 1.75), so it is asked how many rows there will be. In
bfloat16 blocks take half the time of float32's for one row, and a fifth for 64 (one thread of a
Xeon with AVX-512 BF16, [9728, 896]), for small weights too.
Rows are float32 either way: a weight in bfloat16 is multiplied by rows rounded to it.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

# Elements. Below, what oneDNN takes to start (some 25 us) is more than its blocks save in float32.
_LARGE = 1 << 19
_EXPECTED_ROWS = 16  # what blocks are laid out for; any number works
_FEW_ROWS = 3  # up to here float32 is quicker turned


class PackedLinear(Protocol):
    """A linear layer whose weight is packed."""

    def __call__(self, rows: Tensor) -> Tensor:
        """Return [rows, out] of rows [rows, in]."""
        ...

    def add_to(self, x: Tensor, rows: Tensor) -> Tensor:
        """Return x [rows, out] with the product added."""
        ...


class TransposedLinear:
    """Transposed linear layer: a small weight, stored [in, out]."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self._weight = weight.t().contiguous()
        self._bias = bias

    def __call__(self, rows: Tensor) -> Tensor:
        """See PackedLinear."""
        rows = rows.to(self._weight.dtype)
        if self._bias is None:
            return torch.mm(rows, self._weight).float()
        return torch.addmm(self._bias, rows, self._weight).float()

    def add_to(self, x: Tensor, rows: Tensor) -> Tensor:
        """See PackedLinear."""
        if self._weight.dtype != x.dtype:
            return self(rows).add_(x)
        added = torch.addmm(x, rows, self._weight)
        return added if self._bias is None else added.add_(self._bias)


class BlockedLinear:
    """A large weight, stored in oneDNN's blocks."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self._dtype = weight.dtype
        self._weight = _pack(weight, _EXPECTED_ROWS)
        self._bias = bias

    def __call__(self, rows: Tensor) -> Tensor:
        """See PackedLinear."""
        rows = rows.to(self._dtype)
        made: Tensor = _ONEDNN._linear_pointwise(rows, self._weight, self._bias, "none", [], "")
        return made.float()

    def add_to(self, x: Tensor, rows: Tensor) -> Tensor:
        """See PackedLinear."""
        return self(rows).add_(x)


_ONEDNN: Any = torch.ops.mkldnn


def _pack(weight: Tensor, num_rows: int) -> Tensor:
    packed: Tensor = _ONEDNN._reorder_linear_weight(weight, num_rows)
    return packed


def pack_linear(
    weight: Tensor, bias: Tensor | None = None, *, num_rows: int = _EXPECTED_ROWS
) -> PackedLinear:
    """Return how float32 rows are multiplied by a weight [out, in] on a CPU, and a bias added.

    `num_rows` is how many there mostly are at once.
    """
    few = weight.numel() < _LARGE or num_rows <= _FEW_ROWS
    if not _has_blocks() or (few and weight.dtype == torch.float32):
        return TransposedLinear(weight.detach(), bias)
    return BlockedLinear(weight.detach(), bias)


def packs_bfloat16() -> bool:
    """Whether this CPU multiplies in bfloat16, and torch packs weights for it."""
    supported = getattr(_ONEDNN, "_is_mkldnn_bf16_supported", None)
    return _has_blocks() and supported is not None and bool(supported())


def _has_blocks() -> bool:
    # What torch's own compiler packs by; a build without oneDNN lacks it.
    return hasattr(_ONEDNN, "_reorder_linear_weight")
