"""GGUF settings as the config.json that the same model has in a Hugging Face folder."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from backbone.errors import CheckpointError
from quantize.architectures import ARCHITECTURES
from quantize.gguf_header import GgufHeader
from quantize.gguf_settings import GEMMA_27B_LAYERS
from quantize.gguf_tensors import decoded

_MODEL_TYPES = {found.gguf: kind for kind, found in ARCHITECTURES.items() if kind != "mistral"}
_PARTS = "split.count"


def gguf_config(header: GgufHeader) -> dict[str, Any]:
    """Return what config.json says of such a model. Raises CheckpointError for one not run here."""
    require_supported(header)
    kind = _MODEL_TYPES[header.architecture]
    heads = _whole(header, "attention.head_count")
    hidden = _whole(header, "embedding_length")
    dim = int(header.setting("attention.key_length") or hidden // max(heads, 1))
    config: dict[str, Any] = {
        "model_type": kind,
        "vocab_size": _rows(header, "token_embd.weight"),
        "hidden_size": hidden,
        "intermediate_size": _whole(header, "feed_forward_length"),
        "num_hidden_layers": _whole(header, "block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": int(header.setting("attention.head_count_kv") or heads),
        "head_dim": dim,
        "max_position_embeddings": _whole(header, "context_length"),
        "rms_norm_eps": float(header.setting("attention.layer_norm_rms_epsilon", 1e-6)),
        "rope_theta": float(header.setting("rope.freq_base") or 1e4),
        "tie_word_embeddings": "output.weight" not in header.tensors,
        "attention_bias": "blk.0.attn_q.bias" in header.tensors,
        "sliding_window": header.setting("attention.sliding_window"),
        "rope_scaling": _rope_scaling(header, dim),
    }
    original = header.setting("rope.scaling.original_context_length")
    if original and config["rope_scaling"].get("rope_type") == "longrope":
        config["original_max_position_embeddings"] = int(original)
    if kind == "qwen3_moe":
        return config | _experts(header, config)
    return config | (_gemma(header, config) if kind.startswith("gemma") else {})


def require_supported(header: GgufHeader) -> None:
    """Raise CheckpointError for an architecture that torch does not run here, or part of a file."""
    if header.architecture not in _MODEL_TYPES:
        raise CheckpointError(
            f"{header.path.name} is a {header.architecture} model, and torch runs "
            f"{', '.join(_MODEL_TYPES)} from GGUF; run it with llama.cpp (nearfar chat -m FILE)"
        )
    if int(header.metadata.get(_PARTS) or 1) > 1:
        raise CheckpointError(
            f"{header.path.name} is one of {header.metadata[_PARTS]} parts of a model; join them "
            "with llama.cpp's `llama-gguf-split --merge`"
        )
    dim = header.setting("attention.key_length")
    turned = header.setting("rope.dimension_count")
    heads = header.setting("attention.head_count")
    whole = dim or int(header.setting("embedding_length", 0)) // max(int(heads or 1), 1)
    if turned and whole and int(turned) != int(whole):
        raise CheckpointError(
            f"{header.path.name} turns {turned} of the {whole} channels of a head, and torch turns "
            "whole heads here; run it with llama.cpp (nearfar chat -m FILE)"
        )


def _experts(header: GgufHeader, config: dict[str, Any]) -> dict[str, Any]:
    used = _whole(header, "expert_used_count")
    inner = header.setting("expert_feed_forward_length")
    return {
        "num_experts": _rows(header, "blk.0.ffn_gate_exps.weight"),
        "num_experts_per_tok": used,
        "moe_intermediate_size": int(inner or config["intermediate_size"] // max(used, 1)),
        "norm_topk_prob": True,  # as llama.cpp runs them
    }


def _gemma(header: GgufHeader, config: dict[str, Any]) -> dict[str, Any]:
    large = config["num_hidden_layers"] == GEMMA_27B_LAYERS[header.architecture]
    scalar = config["hidden_size"] / config["num_attention_heads"] if large else config["head_dim"]
    found: dict[str, Any] = {"query_pre_attn_scalar": scalar}
    if header.architecture == "gemma2":
        found["attn_logit_softcapping"] = header.setting("attn_logit_softcapping", 50.0)
        found["final_logit_softcapping"] = header.setting("final_logit_softcapping", 30.0)
        return found
    found["rope_local_base_freq"] = float(header.setting("rope.freq_base_swa") or 1e4)
    return found | {"rope_theta": float(header.setting("rope.freq_base") or 1e6)}


def _rope_scaling(header: GgufHeader, dim: int) -> dict[str, Any]:
    if "rope_freqs.weight" in header.tensors:  # Llama 3's, worked out for each frequency
        factors = _factors(header, "rope_freqs.weight", dim)
        both = {"short_factor": factors, "long_factor": factors}
        return {"rope_type": "longrope", "attention_factor": 1.0, **both}
    if "rope_factors_long.weight" in header.tensors:
        return {
            "rope_type": "longrope",
            "short_factor": _factors(header, "rope_factors_short.weight", dim),
            "long_factor": _factors(header, "rope_factors_long.weight", dim),
            "attention_factor": header.setting("rope.scaling.attn_factor"),
        }
    kind = header.setting("rope.scaling.type")
    if kind in (None, "none"):
        return {}
    found: dict[str, Any] = {"rope_type": kind, "factor": header.setting("rope.scaling.factor", 1)}
    if original := header.setting("rope.scaling.original_context_length"):
        found["original_max_position_embeddings"] = int(original)
    return found


def _factors(header: GgufHeader, name: str, dim: int) -> list[float]:
    if name not in header.tensors:
        raise CheckpointError(f"{header.path.name} lacks the tensor {name}; fetch the model again")
    values = np.atleast_1d(decoded(header.path, header.tensors[name]))
    if len(values) != dim // 2 or not all(math.isfinite(v) and v > 0 for v in values.tolist()):
        raise CheckpointError(f"{header.path.name} has a damaged {name}; fetch the model again")
    return [float(value) for value in values]


def _whole(header: GgufHeader, key: str) -> int:
    value = header.setting(key)
    if isinstance(value, list) and len(set(value)) == 1:
        value = value[0]  # one for each layer, all alike
    if not isinstance(value, int):
        raise CheckpointError(
            f"{header.path.name} says {key} is {value!r}, which torch cannot run here; run it with "
            "llama.cpp (nearfar chat -m FILE), or fetch it again"
        )
    return value


def _rows(header: GgufHeader, name: str) -> int:
    if name not in header.tensors:
        raise CheckpointError(f"{header.path.name} lacks the tensor {name}; fetch the model again")
    return header.tensors[name].shape[0]
