"""The tensors of one step: tokens of many sequences behind one another, without padding."""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from backbone.host_to_device import to_device
from cloud.engine.scheduler import Slice


@dataclass(frozen=True)
class BatchRow:
    """One sequence's part of a step."""

    first: int  # where its new tokens start in the step
    num_new: int
    num_context: int  # tokens with keys and values once this step is stored, new ones included
    blocks: list[int]


@dataclass(frozen=True)
class StepBatch:
    """What a step computes; tensors are int64 on the device."""

    tokens: Tensor  # [tokens]
    positions: Tensor  # [tokens]
    slots: Tensor  # [tokens], each token's place in the cache
    rows: list[BatchRow]
    told: Tensor | None = None  # the three of them as one on the host: [3, tokens]

    def part(self, begin: int, end: int) -> StepBatch:
        """Return the rows from `begin` up to `end` as a batch of their own."""
        rows = self.rows[begin:end]
        first, last = rows[0].first, rows[-1].first + rows[-1].num_new
        moved = [replace(row, first=row.first - first) for row in rows]
        cut = slice(first, last)
        return StepBatch(self.tokens[cut], self.positions[cut], self.slots[cut], moved)


def build_batch(slices: Items[Slice], block_size: int, device: torch.device) -> StepBatch:
    """Lay the slices' uncomputed tokens behind one another."""
    tokens: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    rows: list[BatchRow] = []
    for slice_ in slices:
        sequence = slice_.sequence
        start = sequence.num_computed
        end = start + slice_.num_tokens
        rows.append(BatchRow(len(tokens), slice_.num_tokens, end, sequence.blocks))
        tokens += sequence.tokens[start : end - len(slice_.draft)]
        tokens += slice_.draft
        positions += range(start, end)
        blocks = sequence.blocks
        slots += [blocks[p // block_size] * block_size + p % block_size for p in range(start, end)]
    told = torch.tensor((tokens, positions, slots))
    packed = to_device(told, device)
    return StepBatch(packed[0], packed[1], packed[2], rows, told)
