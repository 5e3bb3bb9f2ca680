"""Block store of the ring cache: preallocated blocks of the KV cache, quantized or plain.

Keys are rounded per channel over the tokens of a block, values per token over channels (KIVI, Liu
et al., arXiv 2402.02750). Keys are kept before their rotation, which rounds them better (KVQuant,
Hooper et al., arXiv 2401.18079) and lets every token move to another position at no loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class QuantizedGroups:
    """Quantized groups: codes uint8 [..., size * bits / 8]; per group minimum and step [...]."""

    codes: Tensor
    least: Tensor  # float16
    step: Tensor  # float16


def encode(values: Tensor, bits: int) -> QuantizedGroups:
    """Round groups [..., size] to 8, 4 or 2 bits each, between the least and the largest."""
    wide = values.float()
    least = wide.amin(-1).half()
    top = (1 << bits) - 1
    # A group of one value has no step; any will do.
    step = ((wide.amax(-1) - least.float()) / top).clamp_min(2.0**-24).half()
    codes = torch.round((wide - least.float().unsqueeze(-1)) / step.float().unsqueeze(-1))
    return QuantizedGroups(
        codes=_packed(codes.clamp(0, top).to(torch.uint8), bits), least=least, step=step
    )


def decode(groups: QuantizedGroups, bits: int, dtype: torch.dtype) -> Tensor:
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


_MAX_VALUE_GROUP = 64


class BlockStore:
    """`num_blocks` places, each for one block of keys or values of every layer."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        *,
        num_layers: int,
        num_blocks: int,
        bits: int,
        per_channel: bool,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.shape = shape  # [block, kv_heads, head_dim]
        self.bits = bits
        self.per_channel = per_channel
        self.dtype = dtype
        self.group = shape[0] if per_channel else gcd(_MAX_VALUE_GROUP, shape[2])
        where = (num_layers, num_blocks)
        if bits == 16:
            self.plain = torch.zeros(*where, *shape, dtype=dtype, device=device)
            self.parts = {"plain": self.plain}
            return
        rows = self._grouped_shape()
        width = self.group * bits // 8
        self.codes = torch.zeros(*where, *rows, width, dtype=torch.uint8, device=device)
        self.least = torch.zeros(*where, *rows, dtype=torch.float16, device=device)
        self.step = torch.zeros(*where, *rows, dtype=torch.float16, device=device)
        self.parts = {"codes": self.codes, "least": self.least, "step": self.step}

    @property
    def num_bytes(self) -> int:
        """Return what is allocated."""
        return sum(part.nbytes for part in self.parts.values())

    def _grouped_shape(self) -> tuple[int, ...]:
        block, heads, dim = self.shape
        if self.per_channel:
            return (heads, dim)
        return (block, heads, dim // self.group)

    def put(self, layer: int, place: int, values: Tensor) -> None:
        """Keep one block [block, kv_heads, head_dim]."""
        if self.bits == 16:
            self.plain[layer, place] = values
            return
        found = encode(self._to_groups(values), self.bits)
        self.codes[layer, place] = found.codes
        self.least[layer, place] = found.least
        self.step[layer, place] = found.step

    def take(self, layer: int, places: slice | Tensor) -> Tensor:
        """Return blocks in the order of `places`: [blocks * block, kv_heads, head_dim]."""
        if self.bits == 16:
            return self.plain[layer, places].flatten(0, 1)
        groups = QuantizedGroups(
            codes=self.codes[layer, places],
            least=self.least[layer, places],
            step=self.step[layer, places],
        )
        values = decode(groups, self.bits, self.dtype)
        if self.per_channel:  # [blocks, kv_heads, head_dim, block]
            return values.permute(0, 3, 1, 2).flatten(0, 1)
        return values.flatten(-2).flatten(0, 1)

    def _to_groups(self, values: Tensor) -> Tensor:
        if self.per_channel:
            return values.permute(1, 2, 0)  # [kv_heads, head_dim, block]
        return values.reshape(*values.shape[:-1], -1, self.group)
