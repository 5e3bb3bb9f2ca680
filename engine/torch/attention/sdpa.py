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
from engine.torch.kv.batch import BatchRow, StepBatch
from engine.torch.kv.kv_cache import KVCache


@dataclass(frozen=True)
class _Plan:
    """Read plan of one row: a run of neighbouring tokens, or slots to be gathered."""

    queries: slice
    run: slice | None
    slots: Tensor | None
    mask: Tensor | None  # bool [new, keys], or float [group * new, keys] where that is grouped
    is_causal: bool
    single: bool
    grouped: bool  # few queries: the heads of a group are read as more of them


# Tokens of a row that are grouped; for more, a mask of all of them would be large.
_FEW = 64


class SdpaAttention:
    """Attention by torch's SDPA; gathers each sequence's keys and values where need be."""

    def __init__(self, config: NetworkConfig, cache: KVCache) -> None:
        self._cache = cache
        self._windows = config.windows()
        self._num_sinks = config.num_sinks
        self._soft_cap = config.attn_logit_softcapping
        self._kv_heads = config.num_key_value_heads
        self._group = config.num_attention_heads // config.num_key_value_heads
        self._slots: Tensor
        self._plans: dict[int | None, list[_Plan]] = {}

    def prepare(self, batch: StepBatch) -> None:
        """See AttentionBackend."""
        self._slots = batch.slots
        self._plans = {}  # the masks of the step before, which can be large
        device = batch.slots.device
        self._plans = {
            window: [self._plan(row, window, device) for row in batch.rows]
            for window in set(self._windows)
        }

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See AttentionBackend."""
        self._cache.store(layer, k, v, self._slots)
        plans = self._plans[self._windows[layer]]
        if len(plans) == len(q) and self._soft_cap is None:
            return self._attend_singles(layer, q, plans)
        parts = [self._attend_row(layer, q[plan.queries], plan) for plan in plans]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _plan(self, row: BatchRow, window: int | None, device: torch.device) -> _Plan:
        apart, first_key = seen_keys(row, window, self._num_sinks)
        run = None if apart else neighbours(row, first_key, self._cache.block_size)
        mask, is_causal = self._mask(row, apart, first_key, window, device)
        grouped = mask is not None and row.num_new <= _FEW and self._groups(device)
        if grouped and mask is not None:
            mask = torch.zeros(mask.shape).masked_fill_(~mask, float("-inf"))
            mask = mask.repeat(self._group, 1)
        return _Plan(
            queries=slice(row.first, row.first + row.num_new),
            run=run,
            slots=None if run else self._slots_of(row, apart, first_key, device),
            mask=mask,
            is_causal=is_causal,
            single=row.num_new == 1,
            grouped=grouped,
        )

    def _groups(self, device: torch.device) -> bool:
        """Whether torch would repeat keys for every head of a group, which costs more than so."""
        plain = self._soft_cap is None and self._cache.keys[0].dtype == torch.float32
        return plain and device.type == "cpu" and self._group > 1

    def _slots_of(self, row: BatchRow, apart: int, first_key: int, device: torch.device) -> Tensor:
        """Return where the keys lie that a row sees: sinks, then those from first_key on."""
        size = self._cache.block_size
        # By block on the device, as a list of all tokens would be slow to make.
        skipped = first_key // size
        blocks = torch.tensor(row.blocks[skipped : -(-row.num_context // size)], device=device)
        slots = (blocks.unsqueeze(1) * size + torch.arange(size, device=device)).flatten()
        slots = slots[first_key - skipped * size : row.num_context - skipped * size]
        if not apart:
            return slots
        sinks = [row.blocks[at // size] * size + at % size for at in range(apart)]
        return torch.cat((torch.tensor(sinks, device=device), slots))

    def _mask(
        self, row: BatchRow, apart: int, first_key: int, window: int | None, device: torch.device
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

    def _attend_singles(self, layer: int, q: Tensor, plans: list[_Plan]) -> Tensor:
        # The heads of a group share keys: they are the queries of one attention.
        queries = q.view(len(q), 1, self._kv_heads, -1, q.shape[-1]).unbind()
        parts = [
            functional.scaled_dot_product_attention(row, *self._both(layer, plan, q.dtype))
            for row, plan in zip(queries, plans, strict=True)
        ]
        return (parts[0] if len(parts) == 1 else torch.cat(parts)).view(q.shape)

    def _attend_row(self, layer: int, q: Tensor, plan: _Plan) -> Tensor:
        if plan.single and self._soft_cap is None:
            return self._attend_singles(layer, q, [plan])
        keys, values = self._both(layer, plan, q.dtype)
        if plan.grouped:
            return self._attend_grouped(q, keys, values, plan.mask)
        out = dot_product(
            q.transpose(0, 1).unsqueeze(0),  # [1, heads, new, dim]
            keys,
            values,
            mask=plan.mask,
            is_causal=plan.is_causal,
            soft_cap=self._soft_cap,
        )
        return out[0].transpose(0, 1)

    def _attend_grouped(
        self, q: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None
    ) -> Tensor:
        num_new, _, dim = q.shape
        # [1, kv_heads, group * new, dim]
        rows = q.view(num_new, self._kv_heads, -1, dim).permute(1, 2, 0, 3)
        rows = rows.reshape(1, self._kv_heads, -1, dim)
        out = functional.scaled_dot_product_attention(rows, keys, values, attn_mask=mask)
        return out.view(self._kv_heads, -1, num_new, dim).permute(2, 0, 1, 3).reshape(q.shape)

    def _both(self, layer: int, plan: _Plan, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return keys and values, each [1, kv_heads, keys, dim]."""
        keys, values = self._cache.flat[layer]
        if plan.run is not None and self._cache.scales is None:
            return _run(keys, plan.run), _run(values, plan.run)
        return self._read(layer, 0, plan, dtype), self._read(layer, 1, plan, dtype)

    def _read(self, layer: int, part: int, plan: _Plan, dtype: torch.dtype) -> Tensor:
        """Return the keys (part 0) or values (1), [1, kv_heads, keys, dim]."""
        tokens = _rows(self._cache.flat[layer][part], plan)
        if self._cache.scales is not None:
            scales = _rows(self._cache.scales[layer][part], plan)
            tokens = (tokens.float() * scales).to(dtype)
        return tokens.transpose(0, 1).unsqueeze(0)


def seen_keys(row: BatchRow, window: int | None, num_sinks: int) -> tuple[int, int]:
    """Return how many sinks are read apart, and the first of the other keys that a row sees."""
    if window is None:
        return 0, 0
    # The oldest key that the first new token still sees.
    first_key = max(0, row.num_context - row.num_new + 1 - window)
    return (0, 0) if first_key <= num_sinks else (num_sinks, first_key)


def neighbours(row: BatchRow, first_key: int, block_size: int) -> slice | None:
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
    assert plan.slots is not None, "a plan has either a run or slots"
    return flat.index_select(0, plan.slots)


def _run(flat: Tensor, run: slice) -> Tensor:
    """Return neighbours in [slots, kv_heads, dim] as [1, kv_heads, keys, dim], in one operator."""
    num_slots, num_heads, dim = flat.shape
    token, head, one = flat.stride()
    shape = (1, num_heads, run.stop - run.start, dim)
    begin = flat.storage_offset() + run.start * token
    return flat.as_strided(shape, (num_slots * token, head, token, one), begin)
