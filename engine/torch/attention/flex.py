"""Attention by torch's flex_attention: one call for a step, which skips what no row sees.

The keys of all rows are gathered behind one another; a mask says which row and position each has,
so that blocks of the product that lie in another row, after the query or behind its window are
never computed. On a GPU the call is compiled. On a CPU it runs as plain torch with all scores in
memory, which is good for tests and no more.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from backbone.attention import visible
from backbone.config import NetworkConfig
from backbone.fast_tensor_ops import to_device
from engine.torch.kv.batch import StepBatch, context_slots
from engine.torch.kv.kv_cache import KVCache


class FlexAttention:
    """Attention by flex_attention: windows, sinks and soft-capping in one compiled kernel."""

    def __init__(self, config: NetworkConfig, cache: KVCache) -> None:
        self._cache = cache
        self._windows = config.windows()
        self._num_sinks = config.num_sinks
        self._score_mod = _capping(config.attn_logit_softcapping)
        on_gpu = cache.keys[0].device.type == "cuda"
        self._run: Any = torch.compile(flex_attention, dynamic=True) if on_gpu else _uncompiled
        self._slots: Tensor
        self._context: Tensor
        self._masks: dict[int | None, BlockMask] = {}

    def prepare(self, batch: StepBatch) -> None:
        """See AttentionBackend."""
        device = batch.slots.device
        self._slots = batch.slots
        self._context = to_device(context_slots(batch.rows, self._cache.block_size), device)
        contexts = [row.num_context for row in batch.rows]
        positions = torch.cat([torch.arange(count) for count in contexts])
        keys = to_device(torch.stack((_numbers(contexts), positions)), device)
        asking = to_device(_numbers([row.num_new for row in batch.rows]), device)
        queries = torch.stack((asking, batch.positions))
        self._masks = {window: self._mask(queries, keys, window) for window in set(self._windows)}

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See AttentionBackend."""
        self._cache.store(layer, k, v, self._slots)
        keys, values = self._cache.gather(layer, self._context, q.dtype)
        out = self._run(
            q.transpose(0, 1).unsqueeze(0),  # [1, heads, tokens, dim]
            keys.transpose(0, 1).unsqueeze(0),
            values.transpose(0, 1).unsqueeze(0),
            score_mod=self._score_mod,
            block_mask=self._masks[self._windows[layer]],
            enable_gqa=True,
        )
        assert isinstance(out, Tensor), "without return_aux the result is one tensor"
        return out[0].transpose(0, 1)

    def _mask(self, queries: Tensor, keys: Tensor, window: int | None) -> BlockMask:
        num_sinks = self._num_sinks

        def seen(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            same = queries[0, query] == keys[0, key]
            return same & visible(queries[1, query], keys[1, key], window, num_sinks)

        counts = (queries.shape[1], keys.shape[1])
        return create_block_mask(seen, None, None, *counts, device=str(queries.device))


def _numbers(counts: Sequence[int]) -> Tensor:
    """Return each row's number as often as it has tokens, on the host."""
    return torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))


def _capping(cap: float | None) -> Callable[..., Tensor] | None:
    if cap is None:
        return None

    def capped(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return cap * torch.tanh(score / cap)

    return capped


def _uncompiled(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Any:
    with warnings.catch_warnings():
        # Without a compiler it is slow, as this module says.
        warnings.filterwarnings("ignore", message="flex_attention called without torch.compile")
        return flex_attention(q, k, v, **options)
