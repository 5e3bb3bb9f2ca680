"""Export of a training checkpoint to a Hugging Face folder that any runtime loads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from scripts.pair.training import Recipe


def to_hugging_face(recipe: Recipe, training: Path, target: Path, dtype: torch.dtype) -> None:
    """Write config.json, model.safetensors and the tokenizer to `target`."""
    tensors = load_file(training / f"{recipe.name}.safetensors")
    named: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition(".")
        if kind == "net" and not rest.startswith("lm_head"):
            named[f"model.{rest}"] = tensor.to(dtype).contiguous()
    target.mkdir(parents=True, exist_ok=True)
    save_file(named, target / "model.safetensors", metadata={"format": "pt"})
    vocab_size = named["model.embed_tokens.weight"].shape[0]
    (target / "model.safetensors").chmod(0o644)
    config = _config(recipe, vocab_size, str(dtype).removeprefix("torch."))
    (target / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(training / "tokenizer" / name, target / name)
    generation = {"eos_token_id": 0, "pad_token_id": 0, "do_sample": False}
    (target / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")


def _config(recipe: Recipe, vocab_size: int, dtype: str) -> dict[str, object]:
    shape = recipe.config(vocab_size)
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.num_hidden_layers,
        "num_attention_heads": shape.num_attention_heads,
        "num_key_value_heads": shape.num_key_value_heads,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": shape.max_position_embeddings,
        "rms_norm_eps": shape.rms_norm_eps,
        "rope_theta": shape.rope_theta,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": True,
        "eos_token_id": 0,
        "pad_token_id": 0,
        "torch_dtype": dtype,
        "use_cache": True,
    }
