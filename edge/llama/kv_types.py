"""KV cache types by ggml's names, and the bytes that a cache of a type takes for a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from offload.errors import SettingsError

if TYPE_CHECKING:
    from edge.llama.native_handles import Model

# Bytes per number: a block of 32 numbers holds its quants, a scale, and for q5_1 a minimum.
# Source: the block structures of ggml-common.h.
BYTES_PER_NUMBER = {
    "f32": 4.0,
    "f16": 2.0,
    "q8_0": 34 / 32,
    "q5_1": 24 / 32,
    "q5_0": 22 / 32,
    "q4_1": 20 / 32,
    "q4_0": 18 / 32,
    "iq4_nl": 18 / 32,
}
PLAIN = ("f32", "f16")
NAMES = (*BYTES_PER_NUMBER, "k8v4")


@dataclass(frozen=True)
class KvTypes:
    """KV cache types: those of keys and of values, by ggml's names."""

    k: str
    v: str

    @classmethod
    def parse(cls, name: str) -> KvTypes:
        """Read "q8_0", "k8v4", or "q8_0/q4_0" (keys, then values).

        Raises SettingsError for an unknown name.
        """
        text = "q8_0/q4_0" if name == "k8v4" else name
        parts = text.split("/")
        if len(parts) > 2 or any(part not in BYTES_PER_NUMBER for part in parts):
            raise SettingsError(
                f"kv_cache_dtype is {name!r}; choose auto, {', '.join(NAMES)}, "
                "or two of them for K and V, such as q8_0/q4_0"
            )
        return cls(parts[0], parts[-1])

    def __str__(self) -> str:
        return self.k if self.k == self.v else f"{self.k}/{self.v}"

    @property
    def keys_are_plain(self) -> bool:
        """Return whether the keys are stored one by one, not in blocks."""
        return self.k in PLAIN

    @property
    def values_need_flash(self) -> bool:
        """Return whether the values are in blocks, which only flash attention can read."""
        return self.v not in PLAIN

    def bytes_per_token(self, *, num_layers: int, k_width: int, v_width: int) -> float:
        """Return the bytes of one token; widths are KV heads times their dimension."""
        numbers = k_width * BYTES_PER_NUMBER[self.k] + v_width * BYTES_PER_NUMBER[self.v]
        return num_layers * numbers


F16 = KvTypes("f16", "f16")


BLOCK = 32  # numbers per block of every blocked cache type
UNEVEN_FAMILIES = ("qwen2", "qwen2moe", "qwen2vl")  # their key biases dwarf most channels
SMOOTHED = "nearfar.smooth_keys"  # what quantize/smooth_keys.py adds to a file's metadata
ROTATION = 64  # llama.cpp rotates blocked keys in groups of so many numbers, and only then shifts


@dataclass(frozen=True, kw_only=True)
class CacheShape:
    """Shape of one token's KV cache: heads are summed over the layers."""

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
