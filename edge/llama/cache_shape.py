"""The numbers of a model that decide how much memory its context takes."""

from __future__ import annotations

from dataclasses import dataclass

from edge.llama.kv_types import KvTypes
from edge.llama.native_handles import Model

BLOCK = 32  # numbers per block of every blocked cache type
UNEVEN_FAMILIES = ("qwen2", "qwen2moe", "qwen2vl")  # their key biases dwarf most channels
SMOOTHED = "nearfar.smooth_keys"  # what quantize/smooth_keys.py adds to a file's metadata
ROTATION = 64  # llama.cpp rotates blocked keys in groups of so many numbers, and only then shifts


@dataclass(frozen=True, kw_only=True)
class CacheShape:
    """Keys and values of one token: heads are summed over the layers."""

    num_kv_heads: int  # of all layers together
    k_head: int  # numbers in one key
    v_head: int
    keys_are_uneven: bool = False  # a few channels are so large that keys in few bits lose much

    @classmethod
    def of(cls, model: Model) -> CacheShape:
        """Read the shape from a model's metadata."""
        num_heads = model.numbers("attention.head_count") or [1]
        kv_heads = model.numbers("attention.head_count_kv") or num_heads
        head = _number(model, "embedding_length") // max(1, num_heads[0])
        num_layers = _number(model, "block_count")
        per_layer = kv_heads if len(kv_heads) > 1 else kv_heads * num_layers
        return cls(
            num_kv_heads=sum(per_layer),
            k_head=_number(model, "attention.key_length") or head,
            v_head=_number(model, "attention.value_length") or head,
            keys_are_uneven=model.architecture in UNEVEN_FAMILIES and not model.metadata(SMOOTHED),
        )

    def allows(self, types: KvTypes) -> bool:
        """Return whether blocks divide the heads, as llama.cpp requires."""
        k_fits = types.keys_are_plain or self.k_head % BLOCK == 0
        return k_fits and (not types.values_need_flash or self.v_head % BLOCK == 0)

    def slides(self, types: KvTypes) -> bool:
        """Return whether positions can be shifted; see `Context.can_forget`."""
        return types.keys_are_plain or self.k_head % ROTATION == 0

    def cache_bytes(self, types: KvTypes, num_tokens: int) -> int:
        """Return the bytes that a context of so many tokens takes."""
        per_token = types.bytes_per_token(
            num_layers=self.num_kv_heads, k_width=self.k_head, v_width=self.v_head
        )
        return round(per_token * num_tokens)


def _number(model: Model, name: str) -> int:
    return (model.numbers(name) or [0])[0]
