"""A random checkpoint of a real shape, written tensor by tensor: for time and memory only."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from math import prod
from pathlib import Path

import numpy as np

from offload.pair import CLOUD_MODEL

# Qwen2.5-0.5B, as its config.json says.
SHAPE = {
    "model_type": "qwen2",
    "vocab_size": 151_936,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32_768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1_000_000.0,
    "tie_word_embeddings": True,
    "hidden_act": "silu",
    "eos_token_id": 0,
}
_CHUNK = 1 << 20  # weights made at once


def write_random(folder: Path, *, num_layers: int, seed: int = 0) -> Path:
    """Write an HF folder of that shape in bfloat16, with the embedded pair's tokenizer."""
    folder.mkdir(parents=True)
    config = {**SHAPE, "num_hidden_layers": num_layers, "torch_dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(CLOUD_MODEL / name, folder / name)
    shapes = dict(_tensors(num_layers))
    rng = np.random.default_rng(seed)
    with (folder / "model.safetensors").open("wb") as file:
        header = json.dumps(_header(shapes)).encode()
        file.write(len(header).to_bytes(8, "little") + header)
        for name, shape in shapes.items():
            for start in range(0, prod(shape), _CHUNK):
                count = min(_CHUNK, prod(shape) - start)
                values = rng.standard_normal(count, dtype=np.float32) * np.float32(0.02)
                if "norm" in name:
                    values += 1
                file.write((values.view(np.uint32) >> 16).astype("<u2").tobytes())
    return folder


def _tensors(num_layers: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden, inner = int(str(SHAPE["hidden_size"])), int(str(SHAPE["intermediate_size"]))
    kv = hidden * int(str(SHAPE["num_key_value_heads"])) // int(str(SHAPE["num_attention_heads"]))
    yield "model.embed_tokens.weight", (int(str(SHAPE["vocab_size"])), hidden)
    for layer in range(num_layers):
        block = f"model.layers.{layer}."
        for name, size in (("q", hidden), ("k", kv), ("v", kv)):
            yield f"{block}self_attn.{name}_proj.weight", (size, hidden)
            yield f"{block}self_attn.{name}_proj.bias", (size,)
        yield f"{block}self_attn.o_proj.weight", (hidden, hidden)
        yield f"{block}mlp.gate_proj.weight", (inner, hidden)
        yield f"{block}mlp.up_proj.weight", (inner, hidden)
        yield f"{block}mlp.down_proj.weight", (hidden, inner)
        for name in ("input_layernorm", "post_attention_layernorm"):
            yield f"{block}{name}.weight", (hidden,)
    yield "model.norm.weight", (hidden,)


def _header(shapes: dict[str, tuple[int, ...]]) -> dict[str, object]:
    header: dict[str, object] = {}
    at = 0
    for name, shape in shapes.items():
        size = 2 * prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    return header
