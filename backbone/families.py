"""Model families: what the config.json of each means, with its own defaults.

Gemma's published files leave out most of what is Gemma's habit; the defaults are those that
transformers fills in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from backbone.errors import CheckpointError
from backbone.rope_scaling import RopeScaling

SUPPORTED_MODEL_TYPES = (
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "qwen3_moe",
    "phi3",
    "gemma2",
    "gemma3_text",
)
_GEMMA = {
    "head_dim": 256,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "tie_word_embeddings": True,
}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "gemma2": _GEMMA
    | {
        "vocab_size": 256_000,
        "max_position_embeddings": 8192,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "sliding_window_pattern": 2,
    },
    "gemma3_text": _GEMMA
    | {
        "vocab_size": 262_208,
        "max_position_embeddings": 131_072,
        "sliding_window_pattern": 6,
        "rope_theta": 1e6,
        "rope_local_base_freq": 1e4,
    },
}
_ACTIVATIONS = {"silu": "silu", "gelu_pytorch_tanh": "gelu_tanh"}
_MAY_BE_NULL = ("attn_logit_softcapping", "final_logit_softcapping", "sliding_window")
_EXPERT_FIELDS = ("num_local_experts", "num_experts", "n_routed_experts", "num_experts_per_tok")


def text_config(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return the language model's part of a config.json: Gemma 3 that sees keeps it one level down.

    Raises CheckpointError for a family that this code cannot run.
    """
    inner = raw.get("text_config")
    if raw.get("model_type") == "gemma3" and isinstance(inner, dict):
        raw = {"model_type": "gemma3_text", "eos_token_id": raw.get("eos_token_id"), **inner}
    model_type = raw.get("model_type")
    if model_type in SUPPORTED_MODEL_TYPES:
        said = {k: v for k, v in raw.items() if v is not None or k in _MAY_BE_NULL}
        return _DEFAULTS.get(str(model_type), {}) | said
    if any(name in raw for name in _EXPERT_FIELDS):
        raise CheckpointError(
            f"{model_type!r} is a mixture of experts that is not supported; qwen3_moe is"
        )
    if not model_type:
        raise CheckpointError("config.json names no model_type; fetch the model again")
    raise CheckpointError(
        f"unknown architecture {model_type!r}; supported are {', '.join(SUPPORTED_MODEL_TYPES)}"
    )


def network_fields(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a NetworkConfig for what `text_config` returned. Raises KeyError."""
    model_type = raw["model_type"]
    if raw.get("mlp_bias"):
        raise CheckpointError(
            "mlp_bias is set, and torch runs feed-forward layers without biases here; "
            "`nearfar quantize gguf FOLDER FILE` makes a file that llama.cpp runs with them"
        )
    if (share := raw.get("partial_rotary_factor", 1.0)) != 1.0:
        raise CheckpointError(
            f"partial_rotary_factor is {share}, and torch turns whole heads here; "
            "`nearfar quantize gguf FOLDER FILE` makes a file that llama.cpp runs"
        )
    num_heads = raw["num_attention_heads"]
    rope, local = _ropes(raw)
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
        "rope_theta": float(rope.get("rope_theta") or raw.get("rope_theta") or 10000.0),
        "rope_scaling": RopeScaling.from_hf(
            rope,
            raw["max_position_embeddings"],
            raw.get("original_max_position_embeddings"),
        ),
        "local_rope_theta": local,
        "tie_word_embeddings": raw.get("tie_word_embeddings", False),
        "qkv_bias": raw.get("attention_bias", model_type == "qwen2"),
        "output_bias": raw.get("attention_bias", False) and model_type != "qwen2",
        "qk_norm": model_type in ("qwen3", "qwen3_moe", "gemma3_text"),
        "activation": _activation(raw),
        "sliding_window": _window(raw),
        "full_layers": _full_layers(raw),
        "eos_token_ids": _token_ids(raw.get("eos_token_id")),
        **_gemma_fields(raw),
        **_expert_fields(raw),
    }


def _gemma_fields(raw: Mapping[str, Any]) -> dict[str, Any]:
    if not raw["model_type"].startswith("gemma"):
        return {}
    if raw.get("use_bidirectional_attention"):
        raise CheckpointError(
            "config.json asks for bidirectional attention, which writes no text; use a decoder"
        )
    return {
        "norm_offset": 1.0,
        "sandwich_norms": True,
        "embedding_scale": float(raw["hidden_size"]) ** 0.5,
        "query_pre_attn_scalar": float(raw["query_pre_attn_scalar"]),
        "attn_logit_softcapping": raw.get("attn_logit_softcapping"),
        "final_logit_softcapping": raw.get("final_logit_softcapping"),
    }


def _expert_fields(raw: Mapping[str, Any]) -> dict[str, Any]:
    if raw["model_type"] != "qwen3_moe":
        return {}
    num_experts = raw.get("num_experts") or raw.get("num_local_experts")
    if not num_experts:
        raise KeyError("num_experts")
    step, dense = raw.get("decoder_sparse_step", 1), raw.get("mlp_only_layers") or ()
    layers = range(raw["num_hidden_layers"])
    return {
        "num_experts": num_experts,
        "num_experts_per_tok": raw["num_experts_per_tok"],
        "moe_intermediate_size": raw["moe_intermediate_size"],
        "norm_topk_prob": raw.get("norm_topk_prob", False),
        "dense_layers": frozenset(i for i in layers if i in dense or (i + 1) % step),
    }


def _activation(raw: Mapping[str, Any]) -> str:
    gemma = raw["model_type"].startswith("gemma")
    usual = "gelu_pytorch_tanh" if gemma else "silu"
    # Gemma's hidden_act is a leftover; the newer name is the one that counts.
    name = raw.get("hidden_activation", usual) if gemma else raw.get("hidden_act", usual)
    if name not in _ACTIVATIONS:
        raise CheckpointError(
            f"activation {name!r} is not supported; use {' or '.join(_ACTIVATIONS)}"
        )
    return _ACTIVATIONS[name]


def _ropes(raw: Mapping[str, Any]) -> tuple[dict[str, Any], float | None]:
    """Return the rotary settings of full attention, and the base of layers with a window."""
    # transformers 5 moved the rotary settings into one dictionary, Gemma 3's into two within it.
    rope = dict(raw.get("rope_parameters") or raw.get("rope_scaling") or {})
    if raw["model_type"] != "gemma3_text":
        return rope, None
    if "full_attention" not in rope:
        return rope, float(raw["rope_local_base_freq"])
    local = dict(rope.get("sliding_attention") or {})
    if local.get("rope_type", "default") != "default":
        raise CheckpointError(
            "config.json stretches the positions of windows; only those of full attention can be"
        )
    full = dict(rope["full_attention"])
    return full, float(local.get("rope_theta") or raw["rope_local_base_freq"])


def _window(raw: Mapping[str, Any]) -> int | None:
    if raw["model_type"] == "llama":
        return None
    # Mistral's and Gemma's window is always on; Qwen's only where its config says so.
    slides = raw.get("use_sliding_window", not raw["model_type"].startswith("qwen"))
    return raw.get("sliding_window") if slides else None


def _full_layers(raw: Mapping[str, Any]) -> frozenset[int]:
    num_layers = raw["num_hidden_layers"]
    kinds = raw.get("layer_types")
    if kinds is not None:
        if len(kinds) != num_layers:
            raise CheckpointError(
                f"config.json names {len(kinds)} layer_types and {num_layers} layers; it is damaged"
            )
        return frozenset(i for i, kind in enumerate(kinds) if kind != "sliding_attention")
    if every := raw.get("sliding_window_pattern"):
        return frozenset(i for i in range(num_layers) if (i + 1) % every == 0)
    # Before there were layer_types, Qwen's first layers were the ones without a window.
    count = raw.get("max_window_layers") or 0 if raw["model_type"].startswith("qwen") else 0
    return frozenset(range(min(count, num_layers)))


def _token_ids(eos: int | list[int] | None) -> tuple[int, ...]:
    if eos is None:
        return ()
    return (eos,) if isinstance(eos, int) else tuple(eos)
