"""Selection of a prompt's tokens: what its end attends to stays, the rest goes.

When a prompt has been read, the attention of its last tokens says which of those before them will
be asked for (SnapKV, arXiv 2404.14469): each key head of each layer keeps its own, by the weight
that they got, pooled over neighbours. Layers with a window keep the newest.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from backbone.attention import soft_capped
from engine.torch.kv.block_store import BlockStore
from engine.torch.kv.ring_cache import Ring, StoredBlock

OBSERVERS = 32  # tokens at the end of a prompt whose attention counts
_POOLED = 7  # neighbours that share their weight: a token alone tells little


class PromptSelection:
    """Selection of what a ring stores of one prompt; `is_done` from its end to the next prompt."""

    def __init__(self, ring: Ring, num_kept: int) -> None:
        """Keep about `num_kept` stored tokens: whole blocks, one at least."""
        self._ring = ring
        self._num_blocks = max(1, num_kept // ring.block)
        # Got so far, [layers, kv_heads, tokens behind the sinks].
        self.weights: Tensor | None = None
        self._num_observing = 0
        self.is_done = False

    def clear(self) -> None:
        """Begin with another prompt."""
        self.weights, self.is_done = None, False
        self.watch(0)

    def watch(self, num_observing: int) -> None:
        """Let so many of the newest tokens of the next piece say what they attend to."""
        self._num_observing = num_observing
        self._ring.observe = self._add if num_observing else None

    @torch.no_grad()
    def select(self) -> None:
        """Store what counted most, in its order, in place of all that is stored."""
        ring = self._ring
        size, stored = self._num_blocks * ring.block, len(ring.blocks) * ring.block
        self.watch(0)
        if self.weights is None or stored <= size:
            return
        kept, scratch = ring.blocks[-self._num_blocks :], ring.tables.decoded
        pooled = functional.avg_pool1d(
            self.weights[..., :stored], _POOLED, stride=1, padding=_POOLED // 2
        )
        for layer, weights in enumerate(pooled):
            if ring.windows[layer] is None:
                best = weights.topk(size).indices.sort(-1).values.unsqueeze(-1)
            else:
                newest = torch.arange(stored - size, stored, device=weights.device)
                best = newest.view(1, -1, 1).expand(len(weights), -1, -1)
            keys = ring.keys.keys(layer, ring.places, scratch).transpose(1, 2)
            _put(ring.keys, layer, kept, keys, best)
            _put(ring.values, layer, kept, ring.values.values(layer, ring.places, scratch), best)
        ring.drop_oldest(len(ring.blocks) - self._num_blocks)
        self.is_done = True

    def _add(self, layer: int, q: Tensor, keys: Tensor) -> None:
        """Add the weights of q [tokens, heads, dim] on keys [kv_heads, held, dim], both rotated."""
        ring, count = self._ring, self._num_observing
        if ring.windows[layer] is not None:
            return
        num_kv, held, dim = keys.shape
        rows = q[-count:].reshape(count, num_kv, -1, dim).permute(1, 2, 0, 3).float()
        scores = rows @ keys.float().transpose(1, 2).unsqueeze(1) * dim**-0.5
        at = torch.arange(held, device=keys.device)
        # [kv_heads, group, observers, held]
        scores = soft_capped(scores, ring.soft_cap).masked_fill(
            at > at[held - count :].unsqueeze(1), float("-inf")
        )
        if self.weights is None:
            shape = (len(ring.windows), num_kv, ring.limit)
            self.weights = torch.zeros(shape, device=keys.device)
        found = scores.softmax(-1).sum((1, 2))[:, ring.num_sinks :]
        self.weights[layer, :, : found.shape[1]] += found


def _put(
    store: BlockStore, layer: int, kept: Sequence[StoredBlock], stored: Tensor, best: Tensor
) -> None:
    """Fill the kept blocks with the best [kv_heads, kept, 1] of stored [kv_heads, tokens, dim]."""
    picked = stored.gather(1, best.expand(-1, -1, stored.shape[-1])).transpose(0, 1)
    for block, part in zip(kept, picked.chunk(len(kept)), strict=True):
        store.put(layer, block.place, part)
