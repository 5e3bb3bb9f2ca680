"""The tensors of one step: its tokens, and where in the KV cache its rows' blocks lie."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class BatchRow:
    """Batch row: one sequence's part of a step."""

    first: int  # where its new tokens start in the step
    num_new: int
    num_context: int  # tokens in the cache once this step is stored, new ones included
    blocks: list[int]


@dataclass(frozen=True)
class StepBatch:
    """Batch of one step; tensors are int64 on the device."""

    tokens: Tensor  # [tokens]
    positions: Tensor  # [tokens]
    slots: Tensor  # [tokens], each token's slot in the cache
    rows: list[BatchRow]
    on_host: Tensor | None = None  # the three of them as one on the host: [3, tokens]

    def part(self, begin: int, end: int) -> StepBatch:
        """Return the rows from `begin` up to `end` as a batch of their own."""
        rows = self.rows[begin:end]
        first, last = rows[0].first, rows[-1].first + rows[-1].num_new
        moved = [replace(row, first=row.first - first) for row in rows]
        cut = slice(first, last)
        return StepBatch(self.tokens[cut], self.positions[cut], self.slots[cut], moved)


def context_slots(rows: Sequence[BatchRow], block_size: int) -> Tensor:
    """Return int64 [keys], on the host: the cache slots of all tokens of each row.

    A block freed behind a window counts as block 0: no row sees what is there.
    """
    within = torch.arange(block_size)
    parts = []
    for row in rows:
        blocks = torch.tensor(row.blocks).clamp_min_(0).unsqueeze(1)
        parts.append((blocks * block_size + within).flatten()[: row.num_context])
    return torch.cat(parts)


def block_tables(rows: Sequence[BatchRow]) -> tuple[Tensor, Tensor]:
    """Return int32 blocks [rows, the most blocks of a row] and lengths [rows], on the host.

    A block freed behind a window counts as block 0, which is not read for it.
    """
    width = max(len(row.blocks) for row in rows)
    table = np.zeros((len(rows), width), dtype=np.int32)
    for at, row in enumerate(rows):
        table[at, : len(row.blocks)] = array("i", row.blocks)
    np.maximum(table, 0, out=table)
    lengths = [row.num_context for row in rows]
    return torch.from_numpy(table), torch.tensor(lengths, dtype=torch.int32)
