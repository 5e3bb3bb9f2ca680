"""Where in the cache the keys of a step's rows lie, as the kernels want to be told."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from cloud.engine.kv.batch import BatchRow
from cloud.engine.kv.kv_cache import KVCache


def context_places(rows: Sequence[BatchRow], block_size: int) -> Tensor:
    """Return int64 [keys], on the host: the slots of all that each row has in the cache.

    A block that was given back behind a window counts as block 0: no row sees what is there.
    """
    within = torch.arange(block_size)
    parts = []
    for row in rows:
        blocks = torch.tensor(row.blocks).clamp_min_(0).unsqueeze(1)
        parts.append((blocks * block_size + within).flatten()[: row.num_context])
    return torch.cat(parts)


def block_tables(rows: Sequence[BatchRow]) -> tuple[Tensor, Tensor]:
    """Return int32 blocks [rows, the most blocks of a row] and lengths [rows], on the host.

    Blocks that were given back behind a window are told as block 0, which is not read for them.
    """
    width = max(len(row.blocks) for row in rows)
    table = np.zeros((len(rows), width), dtype=np.int32)
    for at, row in enumerate(rows):
        table[at, : len(row.blocks)] = array("i", row.blocks)
    np.maximum(table, 0, out=table)
    lengths = [row.num_context for row in rows]
    return torch.from_numpy(table), torch.tensor(lengths, dtype=torch.int32)


def gathered(
    cache: KVCache, layer: int, places: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return the keys and values [places, kv_heads, dim] of a layer, decoded to `dtype`."""
    keys, values = (part.index_select(0, places) for part in cache.flat[layer])
    if cache.scales is None:
        return keys, values
    k_scale, v_scale = (part.index_select(0, places) for part in cache.scales[layer])
    return (keys.float() * k_scale).to(dtype), (values.float() * v_scale).to(dtype)
