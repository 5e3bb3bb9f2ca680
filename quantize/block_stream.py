"""A checkpoint seen one decoder block at a time, so that memory does not grow with depth."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from backbone.config import NetworkConfig
from backbone.errors import CheckpointError
from backbone.network import DecoderLayer, RMSNorm, embedded
from backbone.rotary import inverse_frequencies
from quantize.architectures import architecture_of
from quantize.weights import StoredTensor, read_config, stored_tensors

MODEL_PREFIX = "model."


class BlockStream:
    """A folder's embedding, blocks and head, each read in float32 when it is asked for."""

    def __init__(self, folder: Path, *, device: str = "cpu") -> None:
        architecture_of(read_config(folder))  # refuses quantized checkpoints by name
        self.folder = folder
        self.device = device
        self.config = NetworkConfig.load(folder)
        self.tensors: Mapping[str, StoredTensor] = stored_tensors(folder)
        self.inverse = inverse_frequencies(self.config).to(device)

    def block(self, layer: int) -> DecoderLayer:
        """Return one decoder block with its weights, on the device."""
        with torch.device("meta"):
            block = DecoderLayer(self.config, layer)
        for name, expected in list(block.named_parameters()):
            tensor = self.read(f"{MODEL_PREFIX}layers.{layer}.{name}", tuple(expected.shape))
            place(block, name, tensor)
        return block.eval().requires_grad_(False)

    def embed(self, tokens: Tensor) -> Tensor:
        """Return what the first block is fed for token ids, [..., hidden_size]; reads only rows."""
        stored = self._stored(f"{MODEL_PREFIX}embed_tokens.weight")
        rows = stored.rows(tokens.flatten().numpy())
        found = torch.from_numpy(rows).reshape(*tokens.shape, -1).to(self.device)
        return embedded(found, self.config)

    def norm(self) -> RMSNorm:
        """Return the norm before the head."""
        config = self.config
        norm = RMSNorm(config.hidden_size, config.rms_norm_eps, config.norm_offset)
        place(norm, "weight", self.read(f"{MODEL_PREFIX}norm.weight", (self.config.hidden_size,)))
        return norm.eval().requires_grad_(False)

    def head(self) -> Tensor:
        """Return the output matrix [vocab_size, hidden_size], the embedding where it is tied."""
        tied = self.config.tie_word_embeddings
        name = f"{MODEL_PREFIX}embed_tokens.weight" if tied else "lm_head.weight"
        return self.read(name, (self.config.vocab_size, self.config.hidden_size))

    def read(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Return one tensor as float32. Raises CheckpointError where it cannot be right."""
        stored = self._stored(name)
        if stored.shape != shape:
            raise CheckpointError(
                f"tensor {name} is {list(stored.shape)} where config.json asks for {list(shape)}; "
                "fetch the model again"
            )
        values = stored.float32()
        if not np.isfinite(values).all():
            raise CheckpointError(f"tensor {name} holds NaN or infinity; fetch the model again")
        return torch.from_numpy(values).to(self.device)

    def _stored(self, name: str) -> StoredTensor:
        if name not in self.tensors:
            raise CheckpointError(f"{self.folder} lacks the tensor {name}; fetch the model again")
        return self.tensors[name]


def place(module: nn.Module, name: str, tensor: Tensor) -> None:
    """Put a tensor where a module's parameter of that name is."""
    path, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(path), leaf, nn.Parameter(tensor, requires_grad=False))
