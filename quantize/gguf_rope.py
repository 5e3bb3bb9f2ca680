"""Rotary settings as GGUF stores them: keys, and the tensors of stretched frequencies."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backbone.errors import CheckpointError
from quantize.architectures import Architecture, Config, head_dim

Settings = dict[str, int | float | str | bool]


def rope(config: Config) -> dict[str, Any]:
    """Return the rotary settings of full attention, wherever this version of the file keeps them.

    Keys: rope_theta, rope_type and what the type needs.
    """
    settings = _by_layer_type(config, "full_attention")
    default = 1e6 if config.get("model_type") == "gemma3_text" else 1e4
    settings["rope_theta"] = float(
        config.get("rope_theta") or settings.get("rope_theta") or default
    )
    settings["rope_type"] = settings.get("rope_type", settings.get("type", "default"))
    return settings


def _by_layer_type(config: Config, layer_type: str) -> dict[str, Any]:
    raw = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    return dict(raw.get(layer_type) or {}) if "full_attention" in raw else raw


def rope_dim(config: Config) -> int:
    """Return how many of a head's channels are rotated."""
    share = config.get("partial_rotary_factor") or rope(config).get("partial_rotary_factor") or 1.0
    return int(head_dim(config) * share)


def check_rope(architecture: Architecture, config: Config) -> None:
    """Raise CheckpointError for a rotary scaling that this architecture has no words for."""
    kind = rope(config)["rope_type"]
    if kind not in architecture.rope_kinds:
        raise CheckpointError(
            f"rope scaling {kind!r} of a {config['model_type']} model cannot be "
            "written to GGUF here; remove rope_scaling from config.json to use the native context"
        )


def rope_settings(architecture: Architecture, config: Config) -> Settings:
    """Return the keys below `{architecture}.` that say how positions turn."""
    settings = rope(config)
    found: Settings = {
        "rope.dimension_count": rope_dim(config),
        "rope.freq_base": settings["rope_theta"],
    }
    if settings["rope_type"] == "linear":
        found |= {"rope.scaling.type": "linear", "rope.scaling.factor": float(settings["factor"])}
    if settings["rope_type"] == "yarn":
        _check_yarn(settings)
        found |= {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": float(settings["factor"]),
            "rope.scaling.original_context_length": _original_context(config, settings),
        }
    if settings["rope_type"] == "longrope":
        found |= {
            "rope.scaling.attn_factor": _longrope_attention_factor(config, settings),
            "rope.scaling.original_context_length": _original_context(config, settings),
        }
    if architecture.gguf == "gemma3":
        local = _by_layer_type(config, "sliding_attention").get("rope_theta")
        found["rope.freq_base_swa"] = float(config.get("rope_local_base_freq") or local or 1e4)
    return found


def _check_yarn(settings: Mapping[str, Any]) -> None:
    usual = {"beta_fast": 32, "beta_slow": 1, "truncate": True, "attention_factor": None}
    usual |= {"mscale": None, "mscale_all_dim": None}
    odd = [name for name, value in usual.items() if settings.get(name, value) != value]
    if odd:
        raise CheckpointError(
            f"yarn with its own {odd[0]} cannot be written to GGUF here; llama.cpp's is "
            f"{usual[odd[0]]}"
        )


def rope_tensors(config: Config) -> Mapping[str, NDArray[np.float32]]:
    """Return what each rotary frequency is divided by, float32 [rope_dim / 2] per GGUF tensor."""
    settings = rope(config)
    if settings["rope_type"] == "llama3":
        return {"rope_freqs.weight": _llama3_factors(config, settings)}
    if settings["rope_type"] == "longrope":
        return {
            "rope_factors_long.weight": np.asarray(settings["long_factor"], dtype=np.float32),
            "rope_factors_short.weight": np.asarray(settings["short_factor"], dtype=np.float32),
        }
    return {}


def _llama3_factors(config: Config, settings: Mapping[str, Any]) -> NDArray[np.float32]:
    # Long wavelengths are stretched, short ones kept, those between blended (Llama 3.1 model card).
    dim = rope_dim(config)
    inverse = settings["rope_theta"] ** (-np.arange(0, dim, 2, dtype=np.float64) / dim)
    rotations = settings["original_max_position_embeddings"] * inverse / (2 * math.pi)
    low, high = settings["low_freq_factor"], settings["high_freq_factor"]
    keep = np.clip((rotations - low) / (high - low), 0.0, 1.0)
    factors: NDArray[np.float32] = (1.0 / (keep + (1 - keep) / settings["factor"])).astype("f4")
    return factors


def _original_context(config: Config, settings: Mapping[str, Any]) -> int:
    inside = settings.get("original_max_position_embeddings")
    outside = config.get("original_max_position_embeddings")
    return int(inside or outside or config["max_position_embeddings"])


def _longrope_attention_factor(config: Config, settings: Mapping[str, Any]) -> float:
    """LongRoPE's softmax temperature (Ding et al., arXiv 2402.13753)."""
    if settings.get("attention_factor"):
        return float(settings["attention_factor"])
    original = _original_context(config, settings)
    stretch = config["max_position_embeddings"] / original
    return math.sqrt(1 + math.log(stretch) / math.log(original)) if stretch > 1 else 1.0


def sliding_window(config: Config) -> int | None:
    """Return the attention window in tokens, None where every layer sees everything."""
    # Qwen ships a window and switches it off; the others have no switch.
    default = not str(config.get("model_type")).startswith(("qwen", "llama"))
    if not config.get("use_sliding_window", default):
        return None
    window = config.get("sliding_window")
    return int(window) if window else None
