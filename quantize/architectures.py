"""What each architecture calls its tensors and settings in GGUF, and where its maths differs.

One table per architecture: Hugging Face names on the left, GGUF names on the right. The quirks are
few: Llama's rotated rows are stored interleaved, Llama 3 stretches its rotary base by a tensor.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backbone.errors import CheckpointError

Config = Mapping[str, Any]
FloatArray = NDArray[np.float32]

_TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
_ATTENTION = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
}
_FEED_FORWARD = {
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_QK_NORMS = {"self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm"}
# Buffers that old checkpoints carry and that every runtime computes for itself.
_COMPUTED = re.compile(r"\.(rotary_emb\.inv_freq|masked_bias|attn\.bias)$")


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One `model_type`: its GGUF name, its tensors and its quirks."""

    gguf: str
    layer: Mapping[str, str]
    interleaves_rotary: bool = False  # q and k rows alternate between the two rotated halves
    takes_rope_factors: bool = False  # reads rope_freqs.weight


ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture(
        gguf="llama",
        layer=_ATTENTION | _FEED_FORWARD,
        interleaves_rotary=True,
        takes_rope_factors=True,
    ),
    "mistral": Architecture(
        gguf="llama",
        layer=_ATTENTION | _FEED_FORWARD,
        interleaves_rotary=True,
        takes_rope_factors=True,
    ),
    "qwen2": Architecture(gguf="qwen2", layer=_ATTENTION | _FEED_FORWARD),
    "qwen3": Architecture(gguf="qwen3", layer=_ATTENTION | _FEED_FORWARD | _QK_NORMS),
}


def architecture_of(config: Config) -> Architecture:
    """Return the table for a parsed `config.json`; CheckpointError names an unknown one."""
    model_type = config.get("model_type")
    found = ARCHITECTURES.get(str(model_type))
    if found is None:
        raise CheckpointError(
            f"unknown architecture {model_type!r}; supported are {', '.join(ARCHITECTURES)}"
        )
    if config.get("quantization_config"):
        method = config["quantization_config"].get("quant_method", "unknown")
        raise CheckpointError(
            f"this checkpoint is already quantized ({method}); start from the full-precision model"
        )
    return found


def gguf_name(architecture: Architecture, name: str) -> str | None:
    """Return the GGUF name of a Hugging Face tensor, or None for one that is computed anyway."""
    if _COMPUTED.search(name):
        return None
    module, _, kind = name.rpartition(".")
    if module in _TOP:
        return f"{_TOP[module]}.{kind}"
    layer = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", module)
    if layer and layer[2] in architecture.layer:
        return f"blk.{layer[1]}.{architecture.layer[layer[2]]}.{kind}"
    raise CheckpointError(
        f"tensor {name} is not part of a {architecture.gguf} model that this converter knows; "
        "use the original checkpoint, without adapters"
    )


def tensor_names(architecture: Architecture, config: Config) -> list[str]:
    """Return the GGUF names of all weights that a complete model has; biases come on top."""
    names = ["token_embd.weight", "output_norm.weight"]
    names += [] if config.get("tie_word_embeddings") else ["output.weight"]
    for layer in range(int(config["num_hidden_layers"])):
        names += [f"blk.{layer}.{module}.weight" for module in architecture.layer.values()]
    return names


def head_dim(config: Config) -> int:
    """Return the number of channels of one attention head."""
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def reshape_for_gguf(
    architecture: Architecture, config: Config, name: str, tensor: NDArray[Any]
) -> NDArray[Any]:
    """Return the tensor as GGUF wants it: [out, in] stays, rotated rows may be interleaved."""
    kind = re.search(r"\.self_attn\.([qk])_proj\.", name)
    if not (architecture.interleaves_rotary and kind):
        return tensor
    num_heads = int(config["num_attention_heads"])
    if kind[1] == "k":
        num_heads = int(config.get("num_key_value_heads") or num_heads)
    # Halves [0..d/2), [d/2..d) of each head become pairs (0, d/2), (1, d/2 + 1), ...
    split = tensor.reshape(num_heads, 2, head_dim(config) // 2, *tensor.shape[1:])
    return np.ascontiguousarray(split.swapaxes(1, 2)).reshape(tensor.shape)


def rope(config: Config) -> dict[str, Any]:
    """Return the rotary settings in one dictionary, wherever this version of the file keeps them.

    Keys: rope_theta, rope_type and what the type needs.
    """
    settings = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    settings["rope_theta"] = float(
        config.get("rope_theta") or settings.get("rope_theta") or 10000.0
    )
    settings["rope_type"] = settings.get("rope_type", settings.get("type", "default"))
    return settings


def rope_factors(architecture: Architecture, config: Config) -> FloatArray | None:
    """Return what each rotary frequency is divided by, float32 [head_dim / 2], or None.

    Llama 3.1's stretch of long wavelengths (its model card), as llama.cpp's rope_freqs.weight.
    """
    settings = rope(config)
    if settings["rope_type"] in ("default", "linear"):
        return None
    if settings["rope_type"] != "llama3" or not architecture.takes_rope_factors:
        raise CheckpointError(
            f"rope scaling {settings['rope_type']!r} of a {config['model_type']} model cannot be "
            "written to GGUF here; remove rope_scaling from config.json to use the native context"
        )
    dim = head_dim(config)
    inverse = settings["rope_theta"] ** (-np.arange(0, dim, 2, dtype=np.float64) / dim)
    rotations = settings["original_max_position_embeddings"] * inverse / (2 * math.pi)
    low, high = settings["low_freq_factor"], settings["high_freq_factor"]
    keep = np.clip((rotations - low) / (high - low), 0.0, 1.0)
    factors: FloatArray = (1.0 / (keep + (1 - keep) / settings["factor"])).astype(np.float32)
    return factors


def sliding_window(config: Config) -> int | None:
    """Return the attention window in tokens, None where every layer sees everything."""
    # Qwen ships a window and switches it off; Mistral has no switch.
    default = config.get("model_type") == "mistral"
    if not config.get("use_sliding_window", default):
        return None
    window = config.get("sliding_window")
    return int(window) if window else None


def metadata(architecture: Architecture, config: Config) -> dict[str, int | float | str]:
    """Return the settings that go under `{architecture}.` in GGUF; floats become float32."""
    num_heads = int(config["num_attention_heads"])
    settings = rope(config)
    dim = head_dim(config)
    # These runtimes have no window for these architectures: inside it, full attention is equal.
    longest = min(config["max_position_embeddings"], sliding_window(config) or math.inf)
    values: dict[str, int | float | str] = {
        "context_length": int(longest),
        "embedding_length": int(config["hidden_size"]),
        "block_count": int(config["num_hidden_layers"]),
        "feed_forward_length": int(config["intermediate_size"]),
        "attention.head_count": num_heads,
        "attention.head_count_kv": int(config.get("num_key_value_heads") or num_heads),
        "attention.key_length": dim,
        "attention.value_length": dim,
        "attention.layer_norm_rms_epsilon": float(config.get("rms_norm_eps", 1e-6)),
        "rope.dimension_count": dim,
        "rope.freq_base": settings["rope_theta"],
        "vocab_size": int(config["vocab_size"]),
    }
    if settings["rope_type"] == "linear":
        values |= {"rope.scaling.type": "linear", "rope.scaling.factor": float(settings["factor"])}
    return values
