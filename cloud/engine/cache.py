"""The keys and values of one sequence, contiguous, and the attention over them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from backbone.config import NetworkConfig


class SequenceCache:
    """Keys and values of every layer, filled from the front; `num_cached` counts tokens."""

    def __init__(
        self, config: NetworkConfig, capacity: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        # [layers, keys or values, batch of 1, kv_heads, capacity, head_dim]
        shape = (config.num_hidden_layers, 2, 1, config.num_key_value_heads, capacity)
        self._kv = torch.empty(*shape, config.head_dim, device=device, dtype=dtype)
        self._layers = [(layer[0], layer[1]) for layer in self._kv]
        self._window = config.sliding_window
        self.num_cached = 0

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store k and v [tokens, kv_heads, head_dim] and return q's attention over all so far.

        The caller advances `num_cached` once every layer has been through.
        """
        start, end = self.num_cached, self.num_cached + q.shape[0]
        keys, values = self._layers[layer]
        keys[0, :, start:end] = k.transpose(0, 1)
        values[0, :, start:end] = v.transpose(0, 1)
        first = 0
        if self._window is not None and q.shape[0] == 1:
            first = max(0, end - self._window)
        out = functional.scaled_dot_product_attention(
            q.transpose(0, 1).unsqueeze(0),  # [1, heads, tokens, head_dim]
            keys[:, :, first:end],
            values[:, :, first:end],
            attn_mask=self._mask(start, end, q.device),
            # With a mask absent, prefill from an empty cache takes the flash kernel.
            is_causal=start == 0 and q.shape[0] > 1 and not self._beyond_window(end),
            enable_gqa=True,
        )
        return out[0].transpose(0, 1)

    def _beyond_window(self, end: int) -> bool:
        return self._window is not None and end > self._window

    def _mask(self, start: int, end: int, device: torch.device) -> Tensor | None:
        if end - start == 1 or (start == 0 and not self._beyond_window(end)):
            return None
        queries = torch.arange(start, end, device=device).unsqueeze(1)
        keys = torch.arange(end, device=device)
        mask = keys <= queries
        return mask if self._window is None else mask & (keys > queries - self._window)
