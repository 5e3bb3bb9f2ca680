"""What a slot holds as bytes, for a file, and back; safetensors holds numbers and no code."""

from __future__ import annotations

from itertools import pairwise

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from edge.small_gpu.ring_cache import Ring
from edge.small_gpu.slot import RingSlot
from engine.sessions import Header, Saved


def saved(slot: RingSlot, model: str) -> Saved:
    """Return what a slot holds, for a SessionStore."""
    ring = slot.ring
    places = [block.place for block in ring.blocks]
    tensors = {
        "plain": ring.plain[:, :, : len(ring.plain_at)],
        "plain_at": torch.tensor(ring.plain_at, dtype=torch.int64),
        "blocks_at": torch.tensor([block.at for block in ring.blocks], dtype=torch.int64),
    }
    for name, part in _stored(ring).items():
        tensors[name] = part[:, places]
    state = save({name: tensor.contiguous().cpu() for name, tensor in tensors.items()})
    kept = _spans(sorted([*ring.plain_at, *(at for block in ring.blocks for at in block.at)]))
    return Saved(header=Header(model=model, stream=list(slot.stream), kept=kept), state=state)


def restore(slot: RingSlot, found: Saved) -> bool:
    """Let a slot hold what was saved instead; False, and empty, where it does not suit."""
    slot.clear()
    try:
        tensors = load(found.state)
        suits = _suits(slot.ring, tensors, len(found.header.stream))
    except (SafetensorError, KeyError, ValueError):
        return False
    if suits:
        _copy(slot.ring, tensors, len(found.header.stream))
        slot.stream = list(found.header.stream)
    return suits


def _copy(ring: Ring, tensors: dict[str, Tensor], num_read: int) -> None:
    plain, blocks_at = tensors["plain"], tensors["blocks_at"].tolist()
    ring.plain[:, :, : plain.shape[2]] = plain.to(ring.device)
    for name, part in _stored(ring).items():
        part[:, : len(blocks_at)] = tensors[name].to(ring.device)
    ring.restore(num_read, tensors["plain_at"].tolist(), [tuple(at) for at in blocks_at])


def _suits(ring: Ring, tensors: dict[str, Tensor], num_read: int) -> bool:
    """Return whether the tensors are of a ring like this one, and their books make sense."""
    plain, blocks_at = tensors["plain"], tensors["blocks_at"].tolist()
    plain_at = tensors["plain_at"].tolist()
    settled = len(plain_at) < ring.num_sinks + ring.residual + ring.block
    like = [(plain, ring.plain[:, :, : len(plain_at)])]
    like += [(tensors[name], part[:, : len(blocks_at)]) for name, part in _stored(ring).items()]
    if not settled or any(a.shape != b.shape or a.dtype != b.dtype for a, b in like):
        return False
    held = [*plain_at[: ring.num_sinks], *(at for block in blocks_at for at in block)]
    held += plain_at[ring.num_sinks :]
    in_order = held[:1] == [0] and all(a < b for a, b in pairwise(held))
    whole = all(len(block) == ring.block for block in blocks_at)
    return in_order and whole and held[-1] < num_read and len(held) <= ring.limit


def _stored(ring: Ring) -> dict[str, Tensor]:
    keys = {f"keys.{name}": part for name, part in ring.keys.parts.items()}
    return keys | {f"values.{name}": part for name, part in ring.values.parts.items()}


def _spans(held: list[int]) -> list[tuple[int, int]]:
    spans: list[tuple[int, int]] = []
    for at in held:
        if spans and spans[-1][1] == at:
            spans[-1] = (spans[-1][0], at + 1)
        else:
            spans.append((at, at + 1))
    return spans
