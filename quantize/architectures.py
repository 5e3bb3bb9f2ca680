"""Architectures: the GGUF names of each one's tensors, and where its stored numbers differ.

One table per architecture: Hugging Face names on the left, GGUF names on the right. The quirks
are few: Llama's rotated rows are stored interleaved, Gemma's norm weights without their one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backbone.errors import CheckpointError

Config = Mapping[str, Any]

_TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
_ATTENTION = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
}
_FEED_FORWARD = {"mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
_PRE_NORM = {"post_attention_layernorm": "ffn_norm"}
_SANDWICH_NORMS = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
_QK_NORMS = {"self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm"}
_PLAIN = _ATTENTION | _PRE_NORM | _FEED_FORWARD
# All experts of a layer are one tensor, [experts, out, in]; `mlp.experts.7.up_proj` is part of it.
_EXPERTS = {
    "mlp.gate": "ffn_gate_inp",
    "mlp.experts.gate_proj": "ffn_gate_exps",
    "mlp.experts.up_proj": "ffn_up_exps",
    "mlp.experts.down_proj": "ffn_down_exps",
}
_FUSED = {
    "input_layernorm": "attn_norm",
    "self_attn.qkv_proj": "attn_qkv",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
# Buffers that old checkpoints carry and that every runtime computes for itself.
_COMPUTED = re.compile(r"\.(rotary_emb\.inv_freq|masked_bias|attn\.bias)$")
# The name before `model.` that a language model has inside a vision-language checkpoint.
_PREFIX = re.compile(r"^(language_model\.|model\.language_model\.)")

_EXPERT = re.compile(r"\.experts\.(\d+)\.")
_SIGHT = re.compile(r"(model\.)?(vision_tower|multi_modal_projector)\.")


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Architecture of one `model_type`: its GGUF name, its tensors and its quirks."""

    gguf: str
    layer: Mapping[str, str]
    interleaves_rotary: bool = False  # q and k rows alternate between the two rotated halves
    norm_offset: float = 0.0  # Gemma stores the weight of a norm less one
    rope_kinds: tuple[str, ...] = ("default", "linear")
    activation: str = "silu"
    has_window: bool = False  # the runtime knows this architecture's sliding window
    ties_by_default: bool = False
    biases: frozenset[str] = frozenset()  # modules whose bias the runtime reads


_QKV = frozenset({"attn_q", "attn_k", "attn_v"})
_ALL_BIASES = _QKV | {"attn_output", "ffn_gate", "ffn_up", "ffn_down"}
_STRETCHES = ("default", "linear", "yarn")
ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture(
        gguf="llama",
        layer=_PLAIN,
        interleaves_rotary=True,
        rope_kinds=("default", "linear", "llama3", "yarn"),
        biases=_ALL_BIASES,
    ),
    "mistral": Architecture(
        gguf="llama",
        layer=_PLAIN,
        interleaves_rotary=True,
        rope_kinds=_STRETCHES,
        biases=_ALL_BIASES,
    ),
    "qwen2": Architecture(gguf="qwen2", layer=_PLAIN, rope_kinds=_STRETCHES, biases=_QKV),
    "qwen3": Architecture(gguf="qwen3", layer=_PLAIN | _QK_NORMS, rope_kinds=_STRETCHES),
    "qwen3_moe": Architecture(
        gguf="qwen3moe",
        layer=_ATTENTION | _PRE_NORM | _QK_NORMS | _EXPERTS,
        rope_kinds=_STRETCHES,
    ),
    "gemma2": Architecture(
        gguf="gemma2",
        layer=_ATTENTION | _SANDWICH_NORMS | _FEED_FORWARD,
        norm_offset=1.0,
        activation="gelu_pytorch_tanh",
        has_window=True,
        ties_by_default=True,
    ),
    "gemma3_text": Architecture(
        gguf="gemma3",
        layer=_ATTENTION | _SANDWICH_NORMS | _FEED_FORWARD | _QK_NORMS,
        norm_offset=1.0,
        activation="gelu_pytorch_tanh",
        has_window=True,
        ties_by_default=True,
    ),
    "phi3": Architecture(gguf="phi3", layer=_FUSED, rope_kinds=("default", "longrope")),
}


def architecture_of(config: Config) -> Architecture:
    """Return the table for a parsed `config.json`; CheckpointError names an unknown one."""
    model_type = config.get("model_type")
    found = ARCHITECTURES.get(str(model_type))
    if not model_type:
        raise CheckpointError("config.json names no model_type; fetch the model again")
    if found is None:
        raise CheckpointError(
            f"unknown architecture {model_type!r}; supported are {', '.join(ARCHITECTURES)}"
        )
    if config.get("quantization_config"):
        method = config["quantization_config"].get("quant_method", "unknown")
        raise CheckpointError(
            f"this checkpoint is already quantized ({method}); start from the full-precision model"
        )
    activation = config.get("hidden_activation") or config.get("hidden_act") or found.activation
    if activation != found.activation:
        raise CheckpointError(
            f"a {model_type} model with activation {activation!r} cannot be written to GGUF; "
            f"only {found.activation} can"
        )
    return found


def is_tied(architecture: Architecture, config: Config) -> bool:
    """Tell whether the output layer is the embedding itself."""
    return bool(config.get("tie_word_embeddings", architecture.ties_by_default))


def gguf_name(architecture: Architecture, name: str) -> str | None:
    """Return the GGUF name of a Hugging Face tensor, or None for one that has no place there."""
    if _COMPUTED.search(name) or _SIGHT.match(name):
        return None
    module, _, kind = _PREFIX.sub("model.", name).replace("model.model.", "model.").rpartition(".")
    module = module.replace("model.lm_head", "lm_head")
    if module in _TOP:
        return f"{_TOP[module]}.{kind}"
    layer = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", _EXPERT.sub(".experts.", module))
    if layer and layer[2] in architecture.layer:
        return f"blk.{layer[1]}.{architecture.layer[layer[2]]}.{kind}"
    raise CheckpointError(
        f"tensor {name} is not part of a {architecture.gguf} model that this converter knows; "
        "use the original checkpoint, without adapters"
    )


def expert_of(name: str) -> int | None:
    """Return the number of the expert that a Hugging Face tensor belongs to."""
    found = _EXPERT.search(name)
    return int(found[1]) if found else None


def num_experts(config: Config) -> int:
    """Return the number of experts of one layer; 0 is one dense feed-forward."""
    return int(config.get("num_experts") or config.get("num_local_experts") or 0)


def require_dense(config: Config) -> None:
    """Raise CheckpointError for a mixture of experts, which is converted but not run in blocks."""
    if num_experts(config):
        raise CheckpointError(
            f"a {config['model_type']} model is a mixture of experts, which can only be converted "
            "here: `nearfar quantize gguf FOLDER FILE` writes every type"
        )


def has_place(architecture: Architecture, name: str) -> bool:
    """Tell whether the runtime reads a tensor (its GGUF name): of biases it reads only some.

    A file with a tensor more than it reads is refused by llama.cpp when it is loaded.
    """
    module = name.removesuffix(".bias").rpartition(".")[2]
    return not name.endswith(".bias") or module in architecture.biases


def tensor_names(architecture: Architecture, config: Config) -> list[str]:
    """Return the GGUF names of all weights that a complete model has; biases come on top."""
    names = ["token_embd.weight", "output_norm.weight"]
    names += [] if is_tied(architecture, config) else ["output.weight"]
    for layer in range(int(config["num_hidden_layers"])):
        names += [f"blk.{layer}.{module}.weight" for module in architecture.layer.values()]
    return names


def head_dim(config: Config) -> int:
    """Return the number of channels of one attention head."""
    default = 256 if str(config.get("model_type")).startswith("gemma") else None
    dim = config.get("head_dim") or default
    return int(dim or config["hidden_size"] // config["num_attention_heads"])


def num_kv_heads(config: Config) -> int:
    """Return the number of key and value heads of one layer."""
    return int(config.get("num_key_value_heads") or config["num_attention_heads"])


def as_stored(
    architecture: Architecture, config: Config, name: str, tensor: NDArray[Any]
) -> NDArray[Any]:
    """Return the tensor `name` (its GGUF name) with the numbers in the order GGUF wants.

    Rows of [out, in] matrices may be interleaved; norms are float32 and may gain one.
    """
    if name.endswith("norm.weight") and architecture.norm_offset:
        return np.asarray(tensor + np.float32(architecture.norm_offset))
    kind = re.search(r"\.attn_([qk])\.", name)
    if not (architecture.interleaves_rotary and kind):
        return tensor
    num_heads = int(config["num_attention_heads"]) if kind[1] == "q" else num_kv_heads(config)
    # Halves [0..d/2), [d/2..d) of each head become pairs (0, d/2), (1, d/2 + 1), ...
    split = tensor.reshape(num_heads, 2, head_dim(config) // 2, *tensor.shape[1:])
    return np.ascontiguousarray(split.swapaxes(1, 2)).reshape(tensor.shape)


def as_in_checkpoint(
    architecture: Architecture, config: Config, name: str, tensor: NDArray[Any]
) -> NDArray[Any]:
    """Return what `as_stored` was given, for a matrix."""
    kind = re.search(r"\.attn_([qk])\.", name)
    if not (architecture.interleaves_rotary and kind):
        return tensor
    num_heads = int(config["num_attention_heads"]) if kind[1] == "q" else num_kv_heads(config)
    pairs = tensor.reshape(num_heads, head_dim(config) // 2, 2, *tensor.shape[1:])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(tensor.shape)
