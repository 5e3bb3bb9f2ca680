"""Attention by the flash-attn package, where it is installed: it reads the blocks where they lie.

Steps of one token a row go through flash_attn_with_kvcache, which splits long contexts over the
GPU; all others through flash_attn_varlen_func. Both take a block table, whose blocks must hold a
multiple of 256 tokens (https://github.com/Dao-AILab/flash-attention). Not yet measured on a GPU.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from backbone.config import NetworkConfig
from backbone.fast_tensor_ops import to_device
from engine.torch.kv.batch import StepBatch, block_tables
from engine.torch.kv.kv_cache import KVCache


class FlashAttention:
    """Attention by flash-attn; its masks are aligned to the bottom right, for chunks."""

    def __init__(self, config: NetworkConfig, cache: KVCache) -> None:
        """Raises ModuleNotFoundError where flash-attn is not installed."""
        self._package: Any = importlib.import_module("flash_attn")
        self._cache = cache
        # The package counts the keys to the left of the query; 0.0 is no cap.
        self._lefts = [-1 if w is None else w - 1 for w in config.windows()]
        self._cap = config.attn_logit_softcapping or 0.0
        self._slots: Tensor
        self._table: Tensor
        self._lengths: Tensor
        self._starts: tuple[Tensor, Tensor]
        self._longest: tuple[int, int]

    def prepare(self, batch: StepBatch) -> None:
        """See AttentionBackend."""
        device = batch.slots.device
        table, lengths = block_tables(batch.rows)
        new = [row.num_new for row in batch.rows]
        context = [row.num_context for row in batch.rows]
        both = torch.zeros(2, len(new) + 1, dtype=torch.int32)
        both[:, 1:] = torch.tensor([new, context]).cumsum(1)
        both = to_device(both, device)
        self._slots = batch.slots
        self._table = to_device(table, device)
        self._lengths = to_device(lengths, device)
        self._starts = (both[0], both[1])
        self._longest = (max(new), max(context))

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See AttentionBackend."""
        self._cache.store(layer, k, v, self._slots)
        keys, values = self._cache.keys[layer], self._cache.values[layer]
        options = {
            "causal": True,
            "window_size": (self._lefts[layer], 0 if self._lefts[layer] >= 0 else -1),
            "softcap": self._cap,
            "block_table": self._table,
        }
        if self._longest[0] == 1:
            out = self._package.flash_attn_with_kvcache(
                q.unsqueeze(1), keys, values, cache_seqlens=self._lengths, **options
            )
            return torch.as_tensor(out).squeeze(1)
        out = self._package.flash_attn_varlen_func(
            q.contiguous(), keys, values, *self._starts, *self._longest, **options
        )
        return torch.as_tensor(out)
