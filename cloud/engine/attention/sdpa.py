"""The reference backend: torch's scaled-dot-product attention, sequence by sequence.

It runs on any device and in any dtype, and is what the others are compared with. On a CPU a loop
over sequences beats one padded batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from backbone.config import NetworkConfig
from cloud.engine.batch import Row, StepBatch
from cloud.engine.kv_cache import KVCache


@dataclass(frozen=True)
class _Plan:
    """How one row reads the cache: a run of neighbouring tokens, or blocks to be gathered."""

    queries: slice
    first_key: int
    num_keys: int
    run: slice | None
    blocks: Tensor | None
    mask: Tensor | None  # bool [new, keys]
    is_causal: bool
    single: bool


class SdpaAttention:
    """Gathers each sequence's keys and values, unless they lie together already."""

    def __init__(self, config: NetworkConfig, cache: KVCache) -> None:
        self._cache = cache
        self._windows = [config.window(layer) for layer in range(config.num_hidden_layers)]
        self._kv_heads = config.num_key_value_heads
        self._slots: Tensor
        self._plans: dict[int | None, list[_Plan]] = {}

    def prepare(self, batch: StepBatch) -> None:
        """See AttentionBackend."""
        self._slots = batch.slots
        device = batch.slots.device
        self._plans = {
            window: [self._plan(row, window, device) for row in batch.rows]
            for window in set(self._windows)
        }

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See AttentionBackend."""
        self._cache.store(layer, k, v, self._slots)
        plans = self._plans[self._windows[layer]]
        parts = [self._attend_row(layer, q[plan.queries], plan) for plan in plans]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _plan(self, row: Row, window: int | None, device: torch.device) -> _Plan:
        first_key = 0
        if window is not None:
            # The oldest key that the first new token still sees.
            first_key = max(0, row.num_context - row.num_new + 1 - window)
        size = self._cache.block_size
        used = row.blocks[first_key // size : -(-row.num_context // size)]
        skipped = first_key % size
        num_keys = row.num_context - first_key
        run = None
        if used[-1] - used[0] == len(used) - 1 and used == list(range(used[0], used[-1] + 1)):
            begin = used[0] * size + skipped
            run = slice(begin, begin + num_keys)
        mask, is_causal = _mask(row, first_key, window, device)
        return _Plan(
            queries=slice(row.first, row.first + row.num_new),
            first_key=skipped,
            num_keys=num_keys,
            run=run,
            blocks=None if run else torch.tensor(used, device=device),
            mask=mask,
            is_causal=is_causal,
            single=row.num_new == 1,
        )

    def _attend_row(self, layer: int, q: Tensor, plan: _Plan) -> Tensor:
        keys, values = (self._read(layer, part, plan, q.dtype) for part in (0, 1))
        if plan.single:
            # The heads of a group share keys: they are the queries of one attention.
            grouped = q.view(1, self._kv_heads, -1, q.shape[-1])
            return functional.scaled_dot_product_attention(grouped, keys, values).view(q.shape)
        out = functional.scaled_dot_product_attention(
            q.transpose(0, 1).unsqueeze(0),  # [1, heads, new, dim]
            keys,
            values,
            attn_mask=plan.mask,
            is_causal=plan.is_causal,
            enable_gqa=True,
        )
        return out[0].transpose(0, 1)

    def _read(self, layer: int, part: int, plan: _Plan, dtype: torch.dtype) -> Tensor:
        """Return the keys (part 0) or values (1), [1, kv_heads, keys, dim]."""
        tokens = self._rows(self._cache.flat[layer][part], plan)
        if self._cache.scales is not None:
            scales = self._rows(self._cache.scales[layer][part], plan)
            tokens = (tokens * scales).to(dtype)
        return tokens.transpose(0, 1).unsqueeze(0)

    def _rows(self, flat: Tensor, plan: _Plan) -> Tensor:
        """Return a row's part of what is held by token; a view where its blocks are neighbours."""
        if plan.run is not None:
            return flat[plan.run]
        assert plan.blocks is not None, "a plan has either a run or blocks"
        blocks = flat.view(-1, self._cache.block_size, *flat.shape[1:])
        gathered = blocks.index_select(0, plan.blocks).flatten(0, 1)
        return gathered[plan.first_key : plan.first_key + plan.num_keys]


def _mask(
    row: Row, first_key: int, window: int | None, device: torch.device
) -> tuple[Tensor | None, bool]:
    """Return a mask, or that the kernel's own causal mode (aligned top left) will do."""
    if row.num_new == 1:
        return None, False
    beyond = window is not None and row.num_context > window
    if row.num_new == row.num_context and not beyond:
        return None, True
    start = row.num_context - row.num_new
    queries = torch.arange(start, row.num_context, device=device).unsqueeze(1)
    keys = torch.arange(first_key, row.num_context, device=device)
    mask = keys <= queries
    return (mask if window is None else mask & (keys > queries - window)), False
