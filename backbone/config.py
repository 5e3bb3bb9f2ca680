"""The shape of a decoder-only network, read from a Hugging Face `config.json`."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from backbone.errors import CheckpointError

SUPPORTED_MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """How positions beyond those of the training are made to fit: stretched angles.

    "llama3" stretches by frequency, "linear" all alike; "yarn" blends both and sharpens attention
    (arXiv 2309.00071).
    """

    kind: str  # "llama3", "linear" or "yarn"
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 8192
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True

    @classmethod
    def from_hf(cls, raw: dict[str, Any], max_position_embeddings: int = 0) -> RopeScaling | None:
        """Read Hugging Face's rotary settings; None where nothing is stretched."""
        kind = raw.get("rope_type", raw.get("type", "default"))
        if kind == "default":
            return None
        if kind not in ("llama3", "linear", "yarn"):
            raise CheckpointError(
                f"rope scaling {kind!r} is not supported; use a checkpoint with llama3, linear "
                "or yarn"
            )
        names = {each.name for each in fields(cls)} - {"kind", "factor"}
        known = {name: raw[name] for name in names if raw.get(name) is not None}
        if kind == "yarn" and max_position_embeddings:
            known.setdefault("original_max_position_embeddings", max_position_embeddings)
        return cls(kind=kind, factor=float(raw["factor"]), **known)


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Sizes and switches of one decoder; field names follow Hugging Face where they exist."""

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    tie_word_embeddings: bool = False
    qkv_bias: bool = False
    output_bias: bool = False
    qk_norm: bool = False
    sliding_window: int | None = None
    full_layers: frozenset[int] = frozenset()  # those that see everything, window or not
    eos_token_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.num_attention_heads % self.num_key_value_heads:
            raise CheckpointError(
                f"num_attention_heads={self.num_attention_heads} is not a multiple of "
                f"num_key_value_heads={self.num_key_value_heads}; the config.json is damaged"
            )
        if self.head_dim % 2:
            raise CheckpointError(f"head_dim={self.head_dim} is odd; rotary embedding needs even")

    def window(self, layer: int) -> int | None:
        """Return how many tokens a layer sees, the newest included; None is all."""
        return None if layer in self.full_layers else self.sliding_window

    @classmethod
    def from_hf(cls, raw: dict[str, Any]) -> NetworkConfig:
        """Read a parsed `config.json`. Raises CheckpointError for shapes this code cannot run."""
        model_type = raw.get("model_type")
        if model_type not in SUPPORTED_MODEL_TYPES:
            raise CheckpointError(
                f"unknown architecture {model_type!r}; "
                f"supported are {', '.join(SUPPORTED_MODEL_TYPES)}"
            )
        if raw.get("hidden_act", "silu") != "silu":
            raise CheckpointError(f"activation {raw['hidden_act']!r} is not supported; use silu")
        try:
            return cls(**_fields(raw, model_type))
        except KeyError as missing:
            raise CheckpointError(f"config.json lacks {missing}; fetch the model again") from None

    @classmethod
    def load(cls, folder: Path) -> NetworkConfig:
        """Read `folder/config.json`."""
        path = folder / "config.json"
        if not path.is_file():
            raise CheckpointError(
                f"{folder} is no checkpoint: it has no config.json; name a Hugging Face folder"
            )
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise CheckpointError(
                f"{path} is not valid JSON ({error}); fetch the model again"
            ) from None
        if not isinstance(raw, dict):
            raise CheckpointError(f"{path} is not a JSON object; fetch the model again")
        return cls.from_hf(raw)


def _fields(raw: dict[str, Any], model_type: str) -> dict[str, Any]:
    num_heads = raw["num_attention_heads"]
    # transformers 5 moved the rotary settings into one dictionary.
    rope = dict(raw.get("rope_parameters") or raw.get("rope_scaling") or {})
    eos = raw.get("eos_token_id")
    # Mistral's window is always on; Qwen's only where its config says so.
    slides = raw.get("use_sliding_window", not model_type.startswith("qwen"))
    window = raw.get("sliding_window") if slides else None
    return {
        "model_type": model_type,
        "vocab_size": raw["vocab_size"],
        "hidden_size": raw["hidden_size"],
        "intermediate_size": raw["intermediate_size"],
        "num_hidden_layers": raw["num_hidden_layers"],
        "num_attention_heads": num_heads,
        "num_key_value_heads": raw.get("num_key_value_heads") or num_heads,
        "head_dim": raw.get("head_dim") or raw["hidden_size"] // num_heads,
        "max_position_embeddings": raw["max_position_embeddings"],
        "rms_norm_eps": raw.get("rms_norm_eps", 1e-6),
        "rope_theta": float(raw.get("rope_theta") or rope.get("rope_theta") or 10000.0),
        "rope_scaling": RopeScaling.from_hf(rope, raw["max_position_embeddings"]),
        "tie_word_embeddings": raw.get("tie_word_embeddings", False),
        "qkv_bias": raw.get("attention_bias", model_type == "qwen2"),
        "output_bias": raw.get("attention_bias", False) and model_type != "qwen2",
        "qk_norm": model_type == "qwen3",
        "sliding_window": window if model_type != "llama" else None,
        "full_layers": _full_layers(raw, model_type),
        "eos_token_ids": _token_ids(eos),
    }


def _full_layers(raw: dict[str, Any], model_type: str) -> frozenset[int]:
    kinds = raw.get("layer_types")
    if kinds is not None:
        return frozenset(i for i, kind in enumerate(kinds) if kind != "sliding_attention")
    # Before there were layer_types, Qwen's first layers were the ones without a window.
    count = raw.get("max_window_layers") or 0 if model_type.startswith("qwen") else 0
    return frozenset(range(min(count, raw["num_hidden_layers"])))


def _token_ids(eos: int | list[int] | None) -> tuple[int, ...]:
    if eos is None:
        return ()
    return (eos,) if isinstance(eos, int) else tuple(eos)
