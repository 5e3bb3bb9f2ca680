"""Paged decode attention in Triton: how the kernels are called, and what a step gives them.

The grid depends on the batch size alone, so that a CUDA graph can replay it. A cache of eight bits
is read as it lies, and decoded in the kernel.
"""

from __future__ import annotations

from functools import cache

import torch
import triton  # type: ignore[import-not-found,import-untyped,unused-ignore]
from torch import Tensor

from backbone.config import NetworkConfig
from backbone.fast_tensor_ops import to_device
from engine.torch.attention.kernels import partial_kernel, reduce_kernel
from engine.torch.kv.batch import StepBatch, block_tables
from engine.torch.kv.kv_cache import CODED, KVCache

_TILE = 32  # keys per iteration
_MOST_SPLITS = 32
_MIN_ROWS = 16  # the least that a tensor-core product takes
_CODES = {"int8": 1, "fp8": 2}  # as the kernel knows them; 0 is a cache as it is


def paged_decode(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    table: Tensor,
    lengths: Tensor,
    *,
    block_size: int,
    scales: tuple[Tensor, Tensor] | None = None,
    window: int | None = None,
    num_sinks: int = 0,
    soft_cap: float | None = None,
) -> Tensor:
    """Return attention [sequences, heads, dim] of one query each over its blocks.

    keys and values are [slots, kv_heads, dim]; table is int32 [sequences, blocks], lengths int32
    [sequences]; a length of 0 gives zeros. Keys and values in eight bits have `scales`, float32
    [slots, kv_heads, 1] each. With a window, the first `num_sinks` keys are seen too; scores are
    bent below `soft_cap`.
    """
    num_seqs, num_heads, dim = q.shape
    num_kv_heads = keys.shape[1]
    group = num_heads // num_kv_heads
    splits = num_splits(num_seqs * num_kv_heads, _num_processors(q.device))
    code = _CODES[CODED[keys.dtype]] if scales is not None else 0
    k_scales, v_scales = scales or (keys, values)  # unread without a code
    parts = (num_seqs, num_heads, splits)
    acc = torch.empty(*parts, dim, device=q.device, dtype=torch.float32)
    top = torch.empty(parts, device=q.device, dtype=torch.float32)
    total = torch.empty(parts, device=q.device, dtype=torch.float32)
    out = torch.empty(q.shape, device=q.device, dtype=q.dtype)
    padded_dim = max(_MIN_ROWS, triton.next_power_of_2(dim))
    assert q.stride(1) == dim and q.stride(2) == 1, "the heads of a token lie together"
    partial_kernel[(num_seqs, num_kv_heads, splits)](
        q,
        keys.view(torch.uint8) if code == 2 else keys,
        values.view(torch.uint8) if code == 2 else values,
        k_scales,
        v_scales,
        table,
        lengths,
        acc,
        top,
        total,
        dim**-0.5,
        q.stride(0),
        table.shape[1],
        KV_HEADS=num_kv_heads,
        GROUP=group,
        ROWS=max(_MIN_ROWS, triton.next_power_of_2(group)),
        DIM=dim,
        PADDED_DIM=padded_dim,
        BLOCK=block_size,
        TILE=_TILE,
        SPLITS=splits,
        WINDOW=window or 0,
        SINKS=num_sinks if window else 0,
        CAP=soft_cap or 0.0,
        EXACT=q.dtype == torch.float32,
        CODE=code,
    )
    reduce_kernel[(num_seqs * num_heads,)](
        acc, top, total, out, DIM=dim, PADDED_DIM=padded_dim, SPLITS=splits
    )
    return out


def num_splits(num_tiles: int, num_processors: int) -> int:
    """Return among how many programs a sequence's keys are split: two for every processor.

    A power of two. Each split costs a float32 row that is written and read again.
    """
    wanted = -(-2 * num_processors // num_tiles)
    return min(_MOST_SPLITS, int(triton.next_power_of_2(wanted)))


@cache
def _num_processors(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).multi_processor_count)
    return 4  # the interpreter has none; few, as it is slow, and enough to split


class TritonDecode:
    """The decode half of a backend: every row of its batches is one token."""

    def __init__(self, config: NetworkConfig, cache: KVCache) -> None:
        self._cache = cache
        self._config = config
        self._slots: Tensor
        self._table: Tensor
        self._lengths: Tensor

    def prepare(self, batch: StepBatch) -> None:
        """See AttentionBackend."""
        assert all(row.num_new == 1 for row in batch.rows), "decode takes one token a row"
        table, lengths = block_tables(batch.rows)
        device = batch.slots.device
        self.use(batch.slots, to_device(table, device), to_device(lengths, device))

    def use(self, slots: Tensor, table: Tensor, lengths: Tensor) -> None:
        """Take a step's tensors as they are; a graph hands in the ones it refills."""
        self._slots, self._table, self._lengths = slots, table, lengths

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See AttentionBackend."""
        self._cache.store(layer, k, v, self._slots)
        keys, values = self._cache.flat[layer]
        scales = self._cache.scales
        return paged_decode(
            q,
            keys,
            values,
            self._table,
            self._lengths,
            block_size=self._cache.block_size,
            scales=None if scales is None else scales[layer],
            window=self._config.window(layer),
            num_sinks=self._config.num_sinks,
            soft_cap=self._config.attn_logit_softcapping,
        )
