"""Paged decode attention in Triton: one new token per sequence, keys read where they lie.

The keys of a sequence are split among programs (Flash-Decoding, arXiv 2311.01282), and the heads
that share keys are the rows of one tile. The grid depends on the batch size alone, so that a CUDA
graph can replay it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton  # type: ignore[import-not-found,import-untyped,unused-ignore]
import triton.language as tl  # type: ignore[import-not-found,import-untyped,unused-ignore]
from torch import Tensor

from backbone.config import NetworkConfig
from cloud.engine.batch import Row, StepBatch
from cloud.engine.kv_cache import KVCache

_TILE = 32  # keys per iteration
_NUM_SPLITS = 8
_MIN_ROWS = 16  # the least that a tensor-core product takes


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]
def _partial_kernel(
    q_ptr: Any,  # [sequences, heads, dim]
    k_ptr: Any,  # [slots, kv_heads, dim]
    v_ptr: Any,
    table_ptr: Any,  # int32 [sequences, table_width]
    length_ptr: Any,  # int32 [sequences], tokens with keys
    acc_ptr: Any,  # float32 [sequences, heads, splits, dim]
    top_ptr: Any,  # float32 [sequences, heads, splits], the largest score
    sum_ptr: Any,  # float32, the sum of exp(score - largest)
    scale: Any,
    q_stride: Any,  # elements from one sequence to the next
    table_width: Any,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,
    BLOCK: tl.constexpr,
    TILE: tl.constexpr,
    SPLITS: tl.constexpr,
    WINDOW: tl.constexpr,
    SINKS: tl.constexpr,
    CAP: tl.constexpr,
    EXACT: tl.constexpr,
) -> None:
    seq, kv, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    length = tl.load(length_ptr + seq)
    # Keys are counted without those between the sinks and the window, which nobody reads.
    skipped = tl.maximum(length - WINDOW - SINKS, 0) if WINDOW > 0 else 0
    share = tl.cdiv(tl.cdiv(length - skipped, SPLITS), TILE) * TILE
    begin = split * share
    end = tl.minimum(begin + share, length - skipped)

    rows = tl.arange(0, ROWS)
    dims = tl.arange(0, PADDED_DIM)
    heads = kv * GROUP + rows
    inside = (rows < GROUP)[:, None] & (dims < DIM)[None, :]
    q = tl.load(q_ptr + seq * q_stride + heads[:, None] * DIM + dims[None, :], inside, 0.0)
    top = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    acc = tl.zeros([ROWS, PADDED_DIM], tl.float32)
    for start in range(begin, end, TILE):
        seen = start + tl.arange(0, TILE)
        known = seen < end
        at = tl.where(seen < SINKS, seen, seen + skipped)
        block = tl.load(table_ptr + seq * table_width + at // BLOCK, known, 0)
        slot = block.to(tl.int64) * BLOCK + at % BLOCK
        place = (slot[:, None] * KV_HEADS + kv) * DIM + dims[None, :]
        readable = known[:, None] & (dims < DIM)[None, :]
        k = tl.load(k_ptr + place, readable, 0.0)  # [TILE, PADDED_DIM]
        v = tl.load(v_ptr + place, readable, 0.0)
        score = tl.dot(q, tl.trans(k), input_precision="ieee" if EXACT else "tf32") * scale
        if CAP > 0.0:
            # cap * tanh(score / cap), by the exponential that every Triton has.
            score = CAP * (1.0 - 2.0 / (tl.exp(score * (2.0 / CAP)) + 1.0))
        score = tl.where(known[None, :], score, float("-inf"))
        new_top = tl.maximum(top, tl.max(score, 1))
        keep = tl.exp(top - new_top)
        p = tl.exp(score - new_top[:, None])
        total = total * keep + tl.sum(p, 1)
        product = tl.dot(p.to(v.dtype), v, input_precision="ieee" if EXACT else "tf32")
        acc = acc * keep[:, None] + product
        top = new_top
    part = (seq * KV_HEADS * GROUP + heads) * SPLITS + split
    tl.store(top_ptr + part, top, rows < GROUP)
    tl.store(sum_ptr + part, total, rows < GROUP)
    tl.store(acc_ptr + part[:, None] * DIM + dims[None, :], acc, inside)


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]
def _reduce_kernel(
    acc_ptr: Any,
    top_ptr: Any,
    sum_ptr: Any,
    out_ptr: Any,  # [sequences * heads, dim]
    DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,
    SPLITS: tl.constexpr,
) -> None:
    row = tl.program_id(0)
    splits = tl.arange(0, SPLITS)
    dims = tl.arange(0, PADDED_DIM)
    top = tl.load(top_ptr + row * SPLITS + splits)
    # A padding row has no keys at all; -inf less -inf would be no number.
    largest = tl.maximum(tl.max(top, 0), -1e30)
    weight = tl.exp(top - largest)
    place = (row * SPLITS + splits)[:, None] * DIM + dims[None, :]
    acc = tl.load(acc_ptr + place, (dims < DIM)[None, :] & (splits >= 0)[:, None], 0.0)
    total = tl.sum(tl.load(sum_ptr + row * SPLITS + splits) * weight, 0)
    out = tl.sum(acc * weight[:, None], 0) / tl.where(total == 0.0, 1.0, total)
    tl.store(out_ptr + row * DIM + dims, out.to(out_ptr.dtype.element_ty), dims < DIM)


def paged_decode(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    table: Tensor,
    lengths: Tensor,
    *,
    block_size: int,
    window: int | None = None,
    num_sinks: int = 0,
    soft_cap: float | None = None,
) -> Tensor:
    """Return attention [sequences, heads, dim] of one query each over its blocks.

    keys and values are [slots, kv_heads, dim]; table is int32 [sequences, blocks], lengths int32
    [sequences]; a length of 0 gives zeros. With a window, the first `num_sinks` keys are seen too;
    scores are bent below `soft_cap`.
    """
    num_seqs, num_heads, dim = q.shape
    num_kv_heads = keys.shape[1]
    group = num_heads // num_kv_heads
    parts = (num_seqs, num_heads, _NUM_SPLITS)
    acc = torch.empty(*parts, dim, device=q.device, dtype=torch.float32)
    top = torch.empty(parts, device=q.device, dtype=torch.float32)
    total = torch.empty(parts, device=q.device, dtype=torch.float32)
    out = torch.empty(q.shape, device=q.device, dtype=q.dtype)
    padded_dim = max(_MIN_ROWS, triton.next_power_of_2(dim))
    assert q.stride(1) == dim and q.stride(2) == 1, "the heads of a token lie together"
    _partial_kernel[(num_seqs, num_kv_heads, _NUM_SPLITS)](
        q,
        keys,
        values,
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
        SPLITS=_NUM_SPLITS,
        WINDOW=window or 0,
        SINKS=num_sinks if window else 0,
        CAP=soft_cap or 0.0,
        EXACT=q.dtype == torch.float32,
    )
    _reduce_kernel[(num_seqs * num_heads,)](
        acc, top, total, out, DIM=dim, PADDED_DIM=padded_dim, SPLITS=_NUM_SPLITS
    )
    return out


def block_tables(rows: Sequence[Row], width: int) -> tuple[Tensor, Tensor]:
    """Return int32 blocks [rows, width] and lengths [rows], on the host.

    Blocks that were given back behind a window are told as block 0, which is not read for them.
    """
    table = [[max(b, 0) for b in row.blocks] + [0] * (width - len(row.blocks)) for row in rows]
    lengths = [row.num_context for row in rows]
    return torch.tensor(table, dtype=torch.int32), torch.tensor(lengths, dtype=torch.int32)


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
        width = max(len(row.blocks) for row in batch.rows)
        table, lengths = block_tables(batch.rows, width)
        device = batch.slots.device
        self.use(batch.slots, table.to(device), lengths.to(device))

    def use(self, slots: Tensor, table: Tensor, lengths: Tensor) -> None:
        """Take a step's tensors as they are; a graph hands in the ones it refills."""
        self._slots, self._table, self._lengths = slots, table, lengths

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See AttentionBackend."""
        self._cache.store(layer, k, v, self._slots)
        keys, values = self._cache.flat[layer]
        return paged_decode(
            q,
            keys,
            values,
            self._table,
            self._lengths,
            block_size=self._cache.block_size,
            window=self._config.window(layer),
            num_sinks=self._config.num_sinks,
            soft_cap=self._config.attn_logit_softcapping,
        )
