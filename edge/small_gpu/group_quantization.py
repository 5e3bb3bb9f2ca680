"""Numbers in groups of few bits: each group keeps its least value and its step, in float16."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Groups:
    """Codes uint8 [..., size * bits / 8], and per group the least value and the step [...]."""

    codes: Tensor
    least: Tensor  # float16
    step: Tensor  # float16


def encode(values: Tensor, bits: int) -> Groups:
    """Round groups [..., size] to 8, 4 or 2 bits each, between the least and the largest."""
    wide = values.float()
    least = wide.amin(-1).half()
    top = (1 << bits) - 1
    # A group of one value has no step; any will do.
    step = ((wide.amax(-1) - least.float()) / top).clamp_min(2.0**-24).half()
    codes = torch.round((wide - least.float().unsqueeze(-1)) / step.float().unsqueeze(-1))
    return Groups(codes=_packed(codes.clamp(0, top).to(torch.uint8), bits), least=least, step=step)


def decode(groups: Groups, bits: int, dtype: torch.dtype) -> Tensor:
    """Return the values [..., size] that the codes stand for."""
    codes = _unpacked(groups.codes, bits).to(dtype)
    return codes * groups.step.to(dtype).unsqueeze(-1) + groups.least.to(dtype).unsqueeze(-1)


def _packed(codes: Tensor, bits: int) -> Tensor:
    per_byte = 8 // bits
    lanes = codes.reshape(*codes.shape[:-1], -1, per_byte)
    packed: Tensor = lanes[..., 0].clone()
    for lane in range(1, per_byte):
        packed |= lanes[..., lane] << (lane * bits)
    return packed


def _unpacked(packed: Tensor, bits: int) -> Tensor:
    per_byte = 8 // bits
    if per_byte == 1:
        return packed
    mask = (1 << bits) - 1
    lanes = [(packed >> (lane * bits)) & mask for lane in range(per_byte)]
    return torch.stack(lanes, -1).flatten(-2)
