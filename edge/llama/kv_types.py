"""How the keys and values of the context are stored: types, their names and their bytes."""

from __future__ import annotations

from dataclasses import dataclass

from offload.errors import SettingsError

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
    """The stored types of keys and of values, by ggml's names."""

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
                "or two of them for keys and values, such as q8_0/q4_0"
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
