"""The models that benchmarks/cloud.py runs: ours, and random ones of known shapes."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from math import gcd
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PretrainedConfig,
    Qwen3Config,
    Qwen3MoeConfig,
)

from offload.pair import CLOUD_MODEL
from quantize.gptq import GptqOptions
from quantize.gptq_format import quantization_config

_TINY = {
    "vocab_size": 4096,
    "hidden_size": 64,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
_INT4 = GptqOptions(group_size=128)
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
    """A folder without an end token, so that both sides write as much as they are asked to.

    Of a real one, transformers runs in the quicker of `dtypes`, ours in what "auto" chooses, and
    the processor's time counts.
    """

    name: str
    folder: Path
    dtypes: tuple[torch.dtype, ...] = (torch.float32,)
    text: str = ""  # whose passages are asked for

    @property
    def is_real(self) -> bool:
        """Whether its weights were trained."""
        return len(self.dtypes) > 1


def embedded_model(place: Path) -> BenchModel:
    """Return a copy of the embedded cloud model."""
    folder = place / "nearfar-cloud"
    shutil.copytree(CLOUD_MODEL, folder)
    _never_ends(folder)
    return BenchModel("nearfar-cloud", folder)


def real_model(place: Path, source: Path, text: str) -> BenchModel:
    """Return a copy of a folder of trained weights, which stay where they are."""
    folder = place / source.name
    folder.mkdir()
    for path in source.iterdir():
        if path.suffix == ".json":
            shutil.copy(path, folder / path.name)
        elif path.is_file():
            (folder / path.name).symlink_to(path.resolve())
    _never_ends(folder)
    return BenchModel(source.name, folder, (torch.float32, torch.bfloat16), text)


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


def random_int4_model(place: Path, shape: str, dtype: torch.dtype = torch.bfloat16) -> BenchModel:
    """Write a GPTQ model of random codes in groups of 128, which nobody has quantized."""
    torch.manual_seed(0)
    folder = place / f"{shape}-int4"
    folder.mkdir()
    config = SHAPES[shape]
    config.eos_token_id, config.dtype = None, dtype
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config)
    weights: dict[str, torch.Tensor] = dict(model.named_parameters())
    tensors: dict[str, torch.Tensor] = {}
    for name, weight in weights.items():
        if name.endswith("_proj.weight"):
            tensors |= _random_gptq(name.removesuffix("weight"), *weight.shape)
        elif not (name == "lm_head.weight" and config.tie_word_embeddings):
            scale = 1.0 if weight.dim() == 1 else 0.02
            tensors[name] = torch.randn(weight.shape).mul_(scale).to(dtype)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    told = config.to_dict() | {"quantization_config": quantization_config(_INT4)}
    told["architectures"] = [type(model).__name__]
    (folder / "config.json").write_text(json.dumps(told, default=str))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(CLOUD_MODEL / name, folder / name)
    _never_ends(folder)
    return BenchModel(folder.name, folder)


def _random_gptq(module: str, num_outputs: int, num_inputs: int) -> dict[str, torch.Tensor]:
    size = gcd(_INT4.group_size, num_inputs)
    num_groups = num_inputs // size
    words = torch.iinfo(torch.int32)
    parts = {
        "qweight": torch.randint(
            words.min, words.max, (num_inputs // 8, num_outputs), dtype=torch.int32
        ),
        "qzeros": torch.full((num_groups, num_outputs // 8), 0x77777777, dtype=torch.int32),
        "scales": torch.full((num_groups, num_outputs), 0.1 * num_inputs**-0.5).half(),
        "g_idx": (torch.arange(num_inputs) // size).int(),
    }
    return {module + name: part for name, part in parts.items()}


def _never_ends(folder: Path) -> None:
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        path = folder / name
        known = json.loads(path.read_text()) if path.is_file() else {}
        for key in ("eos_token_id", "pad_token_id", "eos_token", "pad_token"):
            known.pop(key, None)
        path.write_text(json.dumps(known))
