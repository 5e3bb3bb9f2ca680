"""GPTQ range: scale and zero point of a group of weights, weighed by the size of their inputs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Shares of a group's full range tried as its range: a little clipping often rounds better.
_RANGE_SHARES = tuple(1.0 - step / 40 for step in range(17))


@dataclass(frozen=True, kw_only=True)
class Range:
    """Range of a group's integers: 0 to `max_code`, around zero where `sym`."""

    max_code: int
    sym: bool = True
    search: bool = True  # try smaller ranges than the group's own, and take the best


def choose_scale(values: Tensor, importance: Tensor, kind: Range) -> tuple[Tensor, Tensor]:
    """Return scale and zero, float32 [out], for one group [size, out] of weights."""
    best_scale, best_zero = _scale_at(values, kind, 1.0)
    if not kind.search:
        return best_scale, best_zero
    best = _rounding_error(values, importance, best_scale, best_zero, kind)
    for share in _RANGE_SHARES[1:]:
        scale, zero = _scale_at(values, kind, share)
        error = _rounding_error(values, importance, scale, zero, kind)
        better = error < best
        best = torch.where(better, error, best)
        best_scale = torch.where(better, scale, best_scale)
        best_zero = torch.where(better, zero, best_zero)
    return best_scale, best_zero


def _scale_at(values: Tensor, kind: Range, share: float) -> tuple[Tensor, Tensor]:
    low = values.amin(0).clamp_max(0) * share
    high = values.amax(0).clamp_min(0) * share
    if kind.sym:
        high = torch.maximum(-low, high)
        low = -high
    scale = (high - low) / kind.max_code
    # The file keeps float16: round now, so that the solver sees what the reader will.
    scale = scale.clamp(2.0**-24, 65504.0).half().float()
    if kind.sym:
        zero = torch.full_like(scale, (kind.max_code + 1) // 2)
    else:
        zero = torch.round(-low / scale).clamp(1, kind.max_code)  # 0 has no place in the file
    return scale, zero


def _rounding_error(
    values: Tensor, importance: Tensor, scale: Tensor, zero: Tensor, kind: Range
) -> Tensor:
    steps = values / scale
    codes = steps.round().clamp_(-zero, kind.max_code - zero)
    return importance @ steps.sub_(codes).square_() * scale.square()
