"""Block store of the ring cache: preallocated blocks of the KV cache, quantized or plain.

Keys are rounded per channel over the tokens of a block, values per token over channels (KIVI, Liu
et al., arXiv 2402.02750). Keys are kept before their rotation, which rounds them better (KVQuant,
Hooper et al., arXiv 2401.18079) and lets every token move to another position at no loss. Both lie
as the products of attention read them: neighbouring blocks are neighbours in every row.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd, prod

import torch
from torch import Tensor

LAYOUT = 2  # of the parts, by which kept conversations are told apart
_BLOCK_DIM = 3  # of every part: layer, kv head, channel or group of channels, block
Places = slice | Tensor


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


def decode(groups: QuantizedGroups, bits: int, scratch: Tensor) -> Tensor:
    """Return the values [..., size] that the codes stand for, in float32 and in `scratch`."""
    codes = unpacked(groups.codes, bits, scratch)
    return codes.mul_(groups.step.float().unsqueeze(-1)).add_(groups.least.float().unsqueeze(-1))


def _packed(codes: Tensor, bits: int) -> Tensor:
    """Put code i of a group, and those a byte's share of the group further on, into byte i."""
    lanes = codes.chunk(8 // bits, -1)
    packed: Tensor = lanes[0].clone()
    for lane, each in enumerate(lanes[1:], 1):
        packed |= each << (lane * bits)
    return packed


def unpacked(packed: Tensor, bits: int, scratch: Tensor) -> Tensor:
    """Return the codes of groups [..., size], in float32 and in `scratch`."""
    per_byte, mask = 8 // bits, (1 << bits) - 1
    width = packed.shape[-1]
    codes = _within(scratch, (*packed.shape[:-1], width * per_byte))
    for lane in range(per_byte):
        shifted = packed >> (lane * bits) if lane else packed
        last = lane == per_byte - 1
        codes[..., lane * width : (lane + 1) * width] = shifted if last else shifted & mask
    return codes


def _within(scratch: Tensor, shape: tuple[int, ...]) -> Tensor:
    return scratch[: prod(shape)].view(shape)


_MAX_VALUE_GROUP = 64


class BlockStore:
    """`num_blocks` places, each for one block of keys or values of every layer.

    What is read lies in `scratch`, float32 [elements of a layer], until that is used again: fresh
    memory would cost more than the reading.
    """

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
        self.bits = bits
        self.per_channel = per_channel
        block, heads, dim = shape  # [block, kv_heads, head_dim]
        self.group = block if per_channel else gcd(_MAX_VALUE_GROUP, dim)
        rows = (num_layers, heads, dim if per_channel else dim // self.group, num_blocks)
        groups = rows if per_channel else (*rows, block)
        if bits == 16:
            plain = torch.zeros(*groups, self.group, dtype=dtype, device=device)
            self.parts = {"plain": plain}
            return
        codes = torch.zeros(*groups, self.group * bits // 8, dtype=torch.uint8, device=device)
        least, step = (torch.zeros(groups, dtype=torch.float16, device=device) for _ in range(2))
        self.parts = {"codes": codes, "least": least, "step": step}

    @property
    def num_bytes(self) -> int:
        """Return what is allocated."""
        return sum(part.nbytes for part in self.parts.values())

    def put(self, layer: int, place: int, values: Tensor) -> None:
        """Keep one block [block, kv_heads, head_dim]."""
        groups = self._to_groups(values)
        if self.bits == 16:
            self.parts["plain"][layer, :, :, place] = groups
            return
        found = encode(groups, self.bits)
        for name, part in self.parts.items():
            part[layer, :, :, place] = getattr(found, name)

    def keys(self, layer: int, places: Places, scratch: Tensor) -> Tensor:
        """Return the keys of blocks in the order of `places`: float32 [kv_heads, dim, tokens]."""
        return self._decoded(layer, places, scratch).flatten(-2)

    def values(self, layer: int, places: Places, scratch: Tensor) -> Tensor:
        """Return the values likewise: float32 [kv_heads, tokens, dim]."""
        found = self._decoded(layer, places, scratch).flatten(
            2, 3
        )  # [kv_heads, groups, tokens, size]
        return found.transpose(1, 2).flatten(-2)

    def weighted(self, layer: int, places: Places, weights: Tensor, scratch: Tensor) -> Tensor:
        """Return weights [kv_heads, rows, tokens] times the values: [kv_heads, rows, dim].

        The step of each token's group goes into its weight, so no value is decoded.
        """
        if self.bits == 16:
            return weights @ self.values(layer, places, scratch)
        groups = self._groups(layer, places)
        codes = unpacked(groups.codes, self.bits, scratch).flatten(2, 3)
        steps, leasts = (part.float().flatten(2) for part in (groups.step, groups.least))
        # [kv_heads, groups, rows, size]
        found = (weights.unsqueeze(1) * steps.unsqueeze(2)) @ codes
        found += (weights @ leasts.transpose(1, 2)).transpose(1, 2).unsqueeze(-1)
        return found.transpose(1, 2).flatten(-2)

    def kept(self, places: list[int] | slice) -> dict[str, Tensor]:
        """Return the parts of some blocks, in the order of `places`."""
        return {name: part[:, :, :, places] for name, part in self.parts.items()}

    def restore(self, found: dict[str, Tensor]) -> None:
        """Take blocks over, from place 0 on, in the form of `kept`."""
        for name, part in self.parts.items():
            part[:, :, :, : found[name].shape[_BLOCK_DIM]] = found[name].to(part.device)

    def _groups(self, layer: int, places: Places) -> QuantizedGroups:
        parts = {name: part[layer, :, :, places] for name, part in self.parts.items()}
        return QuantizedGroups(**parts)

    def _decoded(self, layer: int, places: Places, scratch: Tensor) -> Tensor:
        if self.bits == 16:
            return self.parts["plain"][layer, :, :, places].float()
        return decode(self._groups(layer, places), self.bits, scratch)

    def _to_groups(self, values: Tensor) -> Tensor:
        if self.per_channel:
            return values.permute(1, 2, 0)  # [kv_heads, head_dim, block]
        values = values.transpose(0, 1)
        return values.reshape(*values.shape[:2], -1, self.group).transpose(1, 2)
