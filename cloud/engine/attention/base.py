"""What every attention backend offers: metadata once a step, attention once a layer."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from backbone.config import NetworkConfig
from cloud.engine.kv.batch import StepBatch
from cloud.engine.kv.kv_cache import KVCache


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
