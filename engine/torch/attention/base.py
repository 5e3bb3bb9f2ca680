"""The interface of attention backends, and the backend that splits a step between two others."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from backbone.config import NetworkConfig
from engine.torch.kv.batch import StepBatch
from engine.torch.kv.kv_cache import KVCache


class AttentionBackend(Protocol):
    """Attention of a step's new tokens over their sequences' blocks."""

    def __init__(self, config: NetworkConfig, cache: KVCache) -> None: ...

    def prepare(self, batch: StepBatch) -> None:
        """Take in the step's rows, before the first layer."""
        ...

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store k and v [tokens, kv_heads, dim] and return the attention of q.

        q and the result are [tokens, heads, dim].
        """
        ...


class SplitAttention:
    """Split backend: one for rows of one token, which come first, another for prompt chunks."""

    def __init__(self, decode: AttentionBackend, prefill: AttentionBackend) -> None:
        self._decode = decode
        self._prefill = prefill
        self._num_single = 0
        self._num_tokens = 0

    def prepare(self, batch: StepBatch) -> None:
        """See AttentionBackend."""
        singles = [row.num_new == 1 for row in batch.rows]
        self._num_single = sum(singles)
        assert all(singles[: self._num_single]), "rows of one token come first"
        self._num_tokens = len(batch.tokens)
        if self._num_single:
            self._decode.prepare(batch.part(0, self._num_single))
        if self._num_single < len(singles):
            self._prefill.prepare(batch.part(self._num_single, len(singles)))

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See AttentionBackend."""
        cut = self._num_single
        if cut == self._num_tokens:
            return self._decode.attend(layer, q, k, v)
        if cut == 0:
            return self._prefill.attend(layer, q, k, v)
        parts = (
            self._decode.attend(layer, q[:cut], k[:cut], v[:cut]),
            self._prefill.attend(layer, q[cut:], k[cut:], v[cut:]),
        )
        return torch.cat(parts)


def triton_and_varlen(config: NetworkConfig, cache: KVCache) -> SplitAttention:
    """Return the pair for a GPU in half precision."""
    from engine.torch.attention.triton_decode import TritonDecode
    from engine.torch.attention.varlen import VarlenPrefill

    return SplitAttention(TritonDecode(config, cache), VarlenPrefill(config, cache))


def triton_and_sdpa(config: NetworkConfig, cache: KVCache) -> SplitAttention:
    """Return the pair for any dtype: float32 has no flash kernel."""
    from engine.torch.attention.sdpa import SdpaAttention
    from engine.torch.attention.triton_decode import TritonDecode

    return SplitAttention(TritonDecode(config, cache), SdpaAttention(config, cache))
