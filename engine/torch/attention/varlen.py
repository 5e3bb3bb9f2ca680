"""Attention of prompts of many lengths in one call: torch's own flash attention, unpadded.

`torch.nn.attention.varlen` takes bfloat16 and float16 on CUDA only. Its mask is aligned to the
bottom right, so that a piece of a prompt sees all that came before it. Keys are gathered first,
and decoded where the cache has eight bits: torch 2.11 cannot read blocks, and later versions go
wrong in silence unless told not to split.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

from backbone.config import NetworkConfig
from backbone.fast_tensor_ops import to_device
from engine.torch.kv.batch import StepBatch, context_slots
from engine.torch.kv.kv_cache import KVCache


class VarlenPrefill:
    """The prefill half of a backend; rows may have any number of new tokens."""

    def __init__(self, config: NetworkConfig, cache: KVCache) -> None:
        self._cache = cache
        self._config = config
        self._options: dict[str, Any] = {}
        # Before 2.12 there is no such argument, and grouped heads pass straight through.
        if "enable_gqa" in inspect.signature(varlen_attn).parameters:
            self._options["enable_gqa"] = True
        self._slots: Tensor
        self._context: Tensor
        self._starts: tuple[Tensor, Tensor]
        self._longest: tuple[int, int]

    def prepare(self, batch: StepBatch) -> None:
        """See AttentionBackend."""
        device = batch.slots.device
        starts_q, starts_k = [0], [0]
        for row in batch.rows:
            starts_q.append(starts_q[-1] + row.num_new)
            starts_k.append(starts_k[-1] + row.num_context)
        self._slots = batch.slots
        self._context = to_device(context_slots(batch.rows, self._cache.block_size), device)
        both = to_device(torch.tensor((starts_q, starts_k), dtype=torch.int32), device)
        self._starts = (both[0], both[1])
        self._longest = (
            max(row.num_new for row in batch.rows),
            max(row.num_context for row in batch.rows),
        )

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See AttentionBackend."""
        self._cache.store(layer, k, v, self._slots)
        keys, values = self._cache.gather(layer, self._context, q.dtype)
        # The window counts the token itself, varlen's counts those to its left.
        window = self._config.window(layer)
        left = -1 if window is None else window - 1
        out = varlen_attn(
            q.contiguous(),
            keys,
            values,
            *self._starts,
            *self._longest,
            window_size=(left, 0),
            **self._options,
        )
        assert isinstance(out, Tensor), "without return_aux the result is one tensor"
        return out
