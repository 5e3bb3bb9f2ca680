"""Products of a step's few rows with a weight on a CPU, the weight laid out for them once.

torch multiplies by a weight as checkpoints hold it, [out, in], which MKL must turn at every call.
Measured in float32 on one thread, 8 rows: a weight of [1536, 256] takes two thirds of the time when
it is stored turned, one of [4096, 768] about half when it is stored in oneDNN's blocks.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

# Elements. Below, what oneDNN takes to start (some 25 us) is more than its blocks save.
_LARGE = 1 << 19
_EXPECTED_ROWS = 16  # what blocks are laid out for; any number works


class Product(Protocol):
    """A weight that takes the place of the one it was made of."""

    def __call__(self, rows: Tensor) -> Tensor:
        """Return [rows, out] of rows [rows, in]."""
        ...

    def onto(self, x: Tensor, rows: Tensor) -> Tensor:
        """Return x [rows, out] with the product added."""
        ...


class Turned:
    """A small weight, stored [in, out]."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self._weight = weight.t().contiguous()
        self._bias = bias

    def __call__(self, rows: Tensor) -> Tensor:
        """See Product."""
        if self._bias is None:
            return torch.mm(rows, self._weight)
        return torch.addmm(self._bias, rows, self._weight)

    def onto(self, x: Tensor, rows: Tensor) -> Tensor:
        """See Product."""
        added = torch.addmm(x, rows, self._weight)
        return added if self._bias is None else added.add_(self._bias)


class Packed:
    """A large weight, stored in oneDNN's blocks."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self._weight = _pack(weight, _EXPECTED_ROWS)
        self._bias = bias

    def __call__(self, rows: Tensor) -> Tensor:
        """See Product."""
        made: Tensor = _ONEDNN._linear_pointwise(rows, self._weight, self._bias, "none", [], "")
        return made

    def onto(self, x: Tensor, rows: Tensor) -> Tensor:
        """See Product."""
        return self(rows).add_(x)


_ONEDNN: Any = torch.ops.mkldnn


def _pack(weight: Tensor, num_rows: int) -> Tensor:
    packed: Tensor = _ONEDNN._reorder_linear_weight(weight, num_rows)
    return packed


def product_with(weight: Tensor, bias: Tensor | None = None) -> Product:
    """Return how rows are multiplied by a float32 weight [out, in] on a CPU, and a bias added."""
    if weight.numel() < _LARGE or not _has_blocks():
        return Turned(weight.detach(), bias)
    return Packed(weight.detach(), bias)


def _has_blocks() -> bool:
    # What torch's own compiler packs by; a build without oneDNN lacks it.
    return hasattr(_ONEDNN, "_reorder_linear_weight")
