"""The reference backend: torch's scaled-dot-product attention, sequence by sequence.

It runs on any device and in any dtype, and is what the others are compared with. On a CPU a loop
over sequences beats one padded batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from backbone.attention import dot_product, visible
from backbone.config import NetworkConfig
from cloud.engine.batch import Row, StepBatch
from cloud.engine.kv_cache import KVCache


@dataclass(frozen=True)
class _Plan:
    """How one row reads the cache: a run of neighbouring tokens, or places to be gathered."""

    queries: slice
    run: slice | None
    places: Tensor | None
    mask: Tensor | None  # bool [new, keys]
    is_causal: bool
    single: bool


class SdpaAttention:
    """Gathers each sequence's keys and values, unless they lie together already."""

    def __init__(self, config: NetworkConfig, cache: KVCache) -> None:
        self._cache = cache
        self._windows = config.windows()
        self._num_sinks = config.num_sinks
        self._soft_cap = config.attn_logit_softcapping
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
        apart, first_key = seen_keys(row, window, self._num_sinks)
        run = None if apart else neighbours(row, first_key, self._cache.block_size)
        mask, is_causal = self._mask(row, apart, first_key, window, device)
        return _Plan(
            queries=slice(row.first, row.first + row.num_new),
            run=run,
            places=None if run else self._places(row, apart, first_key, device),
            mask=mask,
            is_causal=is_causal,
            single=row.num_new == 1,
        )

    def _places(self, row: Row, apart: int, first_key: int, device: torch.device) -> Tensor:
        """Return where the keys lie that a row sees: sinks, then those from first_key on."""
        size = self._cache.block_size
        # By block on the device, as a list of all tokens would be slow to make.
        skipped = first_key // size
        blocks = torch.tensor(row.blocks[skipped : -(-row.num_context // size)], device=device)
        places = (blocks.unsqueeze(1) * size + torch.arange(size, device=device)).flatten()
        places = places[first_key - skipped * size : row.num_context - skipped * size]
        if not apart:
            return places
        sinks = [row.blocks[at // size] * size + at % size for at in range(apart)]
        return torch.cat((torch.tensor(sinks, device=device), places))

    def _mask(
        self, row: Row, apart: int, first_key: int, window: int | None, device: torch.device
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
        if apart:
            keys = torch.cat((torch.arange(apart, device=device), keys))
        return visible(queries, keys, window, self._num_sinks), False

    def _attend_row(self, layer: int, q: Tensor, plan: _Plan) -> Tensor:
        keys, values = (self._read(layer, part, plan, q.dtype) for part in (0, 1))
        if plan.single and self._soft_cap is None:
            # The heads of a group share keys: they are the queries of one attention.
            grouped = q.view(1, self._kv_heads, -1, q.shape[-1])
            return functional.scaled_dot_product_attention(grouped, keys, values).view(q.shape)
        out = dot_product(
            q.transpose(0, 1).unsqueeze(0),  # [1, heads, new, dim]
            keys,
            values,
            mask=plan.mask,
            is_causal=plan.is_causal,
            soft_cap=self._soft_cap,
        )
        return out[0].transpose(0, 1)

    def _read(self, layer: int, part: int, plan: _Plan, dtype: torch.dtype) -> Tensor:
        """Return the keys (part 0) or values (1), [1, kv_heads, keys, dim]."""
        tokens = _rows(self._cache.flat[layer][part], plan)
        if self._cache.scales is not None:
            scales = _rows(self._cache.scales[layer][part], plan)
            tokens = (tokens.float() * scales).to(dtype)
        return tokens.transpose(0, 1).unsqueeze(0)


def seen_keys(row: Row, window: int | None, num_sinks: int) -> tuple[int, int]:
    """Return how many sinks are read apart, and the first of the other keys that a row sees."""
    if window is None:
        return 0, 0
    # The oldest key that the first new token still sees.
    first_key = max(0, row.num_context - row.num_new + 1 - window)
    return (0, 0) if first_key <= num_sinks else (num_sinks, first_key)


def neighbours(row: Row, first_key: int, block_size: int) -> slice | None:
    """Return the run of a row's tokens from first_key on in the cache, if its blocks follow on."""
    used = row.blocks[first_key // block_size : -(-row.num_context // block_size)]
    if used[-1] - used[0] != len(used) - 1 or used != list(range(used[0], used[-1] + 1)):
        return None
    begin = used[0] * block_size + first_key % block_size
    return slice(begin, begin + row.num_context - first_key)


def _rows(flat: Tensor, plan: _Plan) -> Tensor:
    """Return a row's part of what is held by token; a view where its blocks are neighbours."""
    if plan.run is not None:
        return flat[plan.run]
    assert plan.places is not None, "a plan has either a run or places"
    return flat.index_select(0, plan.places)
