"""The settings of a network as GGUF keys, without the architecture's name in front."""

from __future__ import annotations

import math
from typing import Any

from backbone.errors import CheckpointError
from quantize.architectures import Architecture, Config, head_dim, num_experts, num_kv_heads
from quantize.gguf_rope import Settings, check_rope, rope_settings, sliding_window

# llama.cpp recognises Gemma 27B, which scales its queries otherwise, by its number of layers.
GEMMA_27B_LAYERS = {"gemma2": 46, "gemma3": 62}
_WINDOW_PATTERN = {"gemma2": 2, "gemma3": 6}  # every n-th layer sees everything


def settings(architecture: Architecture, config: Config) -> Settings:
    """Return the keys that go under `{architecture}.`; CheckpointError for what has no key."""
    check_rope(architecture, config)
    dim = head_dim(config)
    found: Settings = {
        "context_length": context_length(architecture, config),
        "embedding_length": int(config["hidden_size"]),
        "block_count": int(config["num_hidden_layers"]),
        "feed_forward_length": int(config["intermediate_size"]),
        "attention.head_count": int(config["num_attention_heads"]),
        "attention.head_count_kv": num_kv_heads(config),
        "attention.key_length": dim,
        "attention.value_length": dim,
        "attention.layer_norm_rms_epsilon": float(config.get("rms_norm_eps", 1e-6)),
        "vocab_size": int(config["vocab_size"]),
    }
    found |= rope_settings(architecture, config)
    if architecture.gguf.startswith("gemma"):
        found |= _gemma(architecture, config)
    if count := num_experts(config):
        found |= _experts(config, count)
    return found


def _experts(config: Config, count: int) -> Settings:
    name = config["model_type"]
    if config.get("mlp_only_layers") or int(config.get("decoder_sparse_step") or 1) != 1:
        raise CheckpointError(
            f"a {name} model with layers without experts cannot be written to GGUF: llama.cpp "
            "gives every layer experts"
        )
    if not config.get("norm_topk_prob"):
        raise CheckpointError(
            f"a {name} model without norm_topk_prob cannot be written to GGUF: llama.cpp always "
            "lets the chosen experts' weights add up to one"
        )
    return {
        "expert_count": count,
        "expert_used_count": int(config["num_experts_per_tok"]),
        "expert_feed_forward_length": int(config["moe_intermediate_size"]),
    }


def context_length(architecture: Architecture, config: Config) -> int:
    """Return the longest context in tokens for which llama.cpp computes the same."""
    longest = int(config["max_position_embeddings"])
    window = sliding_window(config)
    # Without a window in the runtime, full attention is equal only inside it.
    return longest if architecture.has_window or window is None else min(longest, window)


def _gemma(architecture: Architecture, config: Config) -> Settings:
    _check_query_scale(architecture, config)
    _check_pattern(architecture, config)
    found: Settings = {"attention.sliding_window": int(sliding_window(config) or 4096)}
    for key, name in (
        ("attn_logit_softcapping", "attn_logit_softcapping"),
        ("final_logit_softcapping", "final_logit_softcapping"),
    ):
        if config.get(name) is not None:
            found[key] = float(config[name])
        elif architecture.gguf == "gemma2":
            raise CheckpointError(
                f"a gemma2 model without {name} cannot be written to GGUF: llama.cpp always caps"
            )
    return found


def _check_query_scale(architecture: Architecture, config: Config) -> None:
    scalar = float(config.get("query_pre_attn_scalar") or head_dim(config))
    large = int(config["num_hidden_layers"]) == GEMMA_27B_LAYERS[architecture.gguf]
    heads = int(config["num_attention_heads"])
    expected = config["hidden_size"] / heads if large else head_dim(config)
    if not math.isclose(scalar, expected):
        raise CheckpointError(
            f"query_pre_attn_scalar={scalar:g} cannot be written to GGUF: llama.cpp scales the "
            f"queries of this model by {expected:g}; use one of the published sizes"
        )


def _check_pattern(architecture: Architecture, config: Config) -> None:
    every = _WINDOW_PATTERN[architecture.gguf]
    kinds: list[Any] = list(config.get("layer_types") or ())
    wanted = [
        "full_attention" if (i + 1) % every == 0 else "sliding_attention" for i in range(len(kinds))
    ]
    if kinds != wanted:
        raise CheckpointError(
            f"llama.cpp lets every {every}th layer of a {architecture.gguf} model see everything; "
            "this one's layer_types differ and cannot be written to GGUF"
        )
