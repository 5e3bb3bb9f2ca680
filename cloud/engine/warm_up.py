"""Steps that nobody asked for, so that the first reader waits for no compiler."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from backbone.host_to_device import to_device
from cloud.engine.kv.batch import BatchRow, StepBatch
from cloud.engine.kv.kv_cache import KVCache


def warm_up(compute: Callable[[StepBatch], object], cache: KVCache) -> None:
    """Compute one token, a block of a prompt, and both at once; only the scratch block is written.

    A backend compiles its kernels here, and the device lays out its workspaces.
    """
    for counts in ([1], [cache.block_size], [1, cache.block_size]):
        compute(_on_scratch(counts, cache))


def _on_scratch(counts: Sequence[int], cache: KVCache) -> StepBatch:
    rows: list[BatchRow] = []
    positions: list[int] = []
    for count in counts:
        rows.append(BatchRow(len(positions), count, count, [cache.num_blocks]))
        positions += range(count)
    at = torch.tensor(positions)
    told = torch.stack((torch.zeros_like(at), at, cache.scratch_slot + at))
    tokens, places, slots = to_device(told, cache.keys[0].device)
    return StepBatch(tokens, places, slots, rows, told)
