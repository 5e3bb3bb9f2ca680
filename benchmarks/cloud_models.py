"""The models that benchmarks/cloud.py runs: ours, and random ones of known shapes."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PretrainedConfig,
    Qwen3Config,
    Qwen3MoeConfig,
)

from offload.pair import CLOUD_MODEL

_TINY = {
    "vocab_size": 4096,
    "hidden_size": 64,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
_QWEN3 = {"num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128}
SHAPES: dict[str, PretrainedConfig] = {
    # To run the code of the GPU rows on a CPU.
    "miniature": Qwen3Config(**_TINY, max_position_embeddings=512),
    "random-100M": Qwen3Config(
        vocab_size=32000,
        hidden_size=768,
        intermediate_size=2048,
        num_hidden_layers=12,
        num_attention_heads=12,
        num_key_value_heads=4,
        head_dim=64,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
    ),
    # A mixture with windows, other head counts and no tied embeddings: what nothing was tuned on.
    "random-moe-windows": Qwen3MoeConfig(
        vocab_size=6000,
        hidden_size=320,
        intermediate_size=960,
        moe_intermediate_size=224,
        num_experts=8,
        num_experts_per_tok=2,
        mlp_only_layers=[0],
        num_hidden_layers=10,
        num_attention_heads=10,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=2048,
        use_sliding_window=True,
        sliding_window=200,
        max_window_layers=4,
    ),
    "random-long": Qwen3Config(**_TINY, max_position_embeddings=40960),
    "qwen3-0.6b": Qwen3Config(
        **_QWEN3,
        vocab_size=151936,
        hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=28,
        max_position_embeddings=40960,
        tie_word_embeddings=True,
    ),
    "qwen3-1.7b": Qwen3Config(
        **_QWEN3,
        vocab_size=151936,
        hidden_size=2048,
        intermediate_size=6144,
        num_hidden_layers=28,
        max_position_embeddings=40960,
        tie_word_embeddings=True,
    ),
    "llama-3.1-8b": LlamaConfig(
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=131072,
    ),
}


@dataclass(frozen=True)
class BenchModel:
    """A folder without an end token, so that both sides write as much as they are asked to."""

    name: str
    folder: Path


def embedded_model(place: Path) -> BenchModel:
    """Return a copy of the embedded cloud model."""
    folder = place / "nearfar-cloud"
    shutil.copytree(CLOUD_MODEL, folder)
    _never_ends(folder)
    return BenchModel("nearfar-cloud", folder)


def random_model(place: Path, shape: str, dtype: torch.dtype = torch.float32) -> BenchModel:
    """Write a model of random weights, with the embedded pair's tokenizer."""
    torch.manual_seed(0)
    folder = place / shape
    config = SHAPES[shape]
    config.eos_token_id = None
    config.dtype = dtype
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model: Any = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(CLOUD_MODEL / name, folder / name)
    _never_ends(folder)
    return BenchModel(shape, folder)


def _never_ends(folder: Path) -> None:
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        path = folder / name
        known = json.loads(path.read_text()) if path.is_file() else {}
        for key in ("eos_token_id", "pad_token_id", "eos_token", "pad_token"):
            known.pop(key, None)
        path.write_text(json.dumps(known))
