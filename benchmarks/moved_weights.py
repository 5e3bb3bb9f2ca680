"""A model whose weights were decoded from a quantized file, moved off that file's grid.

Decoded weights lie on the grid of the format they came from, so that a format with the same blocks
stores them with no loss, and is flattered. `move` writes the same function with other numbers: the
channels of the residual stream and of each feed-forward are put into a random order, so that a
block mixes numbers of many old blocks, and the values of each head are turned by a random rotation,
undone by the output projection (as QuaRot does, arXiv 2404.00456). Llama and Qwen2 shapes.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantize.architectures import head_dim, num_kv_heads
from quantize.weights import read_config, stored_tensors

Matrix = NDArray[np.float32]
_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)\.(weight|bias)")


def move(folder: Path, target: Path, seed: int = 0) -> Path:
    """Write `target`, a folder that computes what `folder` does up to rounding in float32."""
    from safetensors.numpy import save_file

    config = read_config(folder)
    mover = _Mover(config, seed)
    tensors = {name: mover.moved(name, s.float32()) for name, s in stored_tensors(folder).items()}
    target.mkdir()
    for file in folder.iterdir():
        if file.suffix != ".safetensors" and file.name != "model.safetensors.index.json":
            shutil.copy(file, target)
    save_file(
        {n: np.ascontiguousarray(t) for n, t in tensors.items()}, target / "model.safetensors"
    )
    return target


class _Mover:
    def __init__(self, config: Any, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._hidden = self._random.permutation(config["hidden_size"])
        self._inner_size = config["intermediate_size"]
        self._kv_heads, self._size = num_kv_heads(config), head_dim(config)
        self._shared = config["num_attention_heads"] // self._kv_heads
        self._of_layer: dict[int, tuple[NDArray[np.int64], Matrix]] = {}

    def moved(self, name: str, values: Matrix) -> Matrix:
        """Return one tensor in the new order; biases and norms move as what they are added to."""
        found = _LAYER.fullmatch(name)
        if not found:  # embedding, head, last norm: hidden channels come last in all of them
            return values[..., self._hidden]
        inner, turns = self._layer(int(found[1]))
        match found[2]:
            case "self_attn.v_proj":
                values = values if found[3] == "bias" else values[:, self._hidden]
                heads = values.reshape(self._kv_heads, self._size, -1)
                return (turns @ heads).reshape(values.shape).astype(np.float32)
            case "self_attn.o_proj":
                heads = values[self._hidden].reshape(len(values), -1, self._size)
                back = np.repeat(turns, self._shared, axis=0).transpose(0, 2, 1)
                return np.einsum("rhd,hde->rhe", heads, back).reshape(values.shape).astype("f4")
            case "mlp.gate_proj" | "mlp.up_proj":
                return values[inner][:, self._hidden]
            case "mlp.down_proj":
                return values[self._hidden][:, inner]
        return values if found[3] == "bias" else values[..., self._hidden]

    def _layer(self, layer: int) -> tuple[NDArray[np.int64], Matrix]:
        if layer not in self._of_layer:
            turns = self._random.standard_normal((self._kv_heads, self._size, self._size))
            self._of_layer[layer] = (
                self._random.permutation(self._inner_size),
                np.linalg.qr(turns)[0].astype(np.float32),
            )
        return self._of_layer[layer]
