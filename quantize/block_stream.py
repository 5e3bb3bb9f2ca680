"""Block stream: a checkpoint one decoder block at a time, in constant memory, resumable."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from backbone.config import NetworkConfig
from backbone.errors import CheckpointError, NearfarError
from backbone.files import SHARED, replacement
from backbone.network import DecoderLayer, RMSNorm, embedded
from backbone.rotary import inverse_frequencies
from quantize.architectures import architecture_of, require_dense
from quantize.weights import StoredTensor, read_config, stored_tensors


@dataclass(frozen=True, kw_only=True)
class SavedState:
    """Saved state: the number of blocks done, and the tensors that the next one needs."""

    layer: int
    tensors: dict[str, Tensor]


class StateFile:
    """State file, a safetensors file of one task: same model, same text, same options."""

    def __init__(self, path: Path, *task: object) -> None:
        self.path = path
        self._key = hashlib.sha256(repr(task).encode()).hexdigest()

    def load(self) -> SavedState | None:
        """Return what was saved; None where nothing was. Raises NearfarError for another task."""
        if not self.path.is_file():
            return None
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.path, framework="pt") as file:
                about = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise NearfarError(
                f"{self.path} is damaged ({error}); delete it to begin anew"
            ) from None
        if about.get("task") != self._key:
            raise NearfarError(
                f"{self.path} is left from another run; delete it, or repeat that run's options"
            )
        return SavedState(layer=int(about["layer"]), tensors=tensors)

    def save(self, layer: int, tensors: dict[str, Tensor]) -> None:
        """Replace the file by the state after `layer` blocks."""
        from safetensors.torch import save_file

        self.path.parent.mkdir(parents=True, exist_ok=True)
        about = {"task": self._key, "layer": str(layer)}
        whole = {n: t.contiguous().cpu() for n, t in tensors.items()}
        with replacement(self.path, mode=SHARED) as part:
            save_file(whole, part, metadata=about)

    def remove(self) -> None:
        """Forget the state, the walk being over."""
        self.path.unlink(missing_ok=True)


MODEL_PREFIX = "model."


class BlockStream:
    """Block stream: embedding, blocks and head, each read in float32 when it is asked for."""

    def __init__(self, folder: Path, *, device: str = "cpu") -> None:
        raw = read_config(folder)
        architecture_of(raw)  # refuses quantized checkpoints by name
        require_dense(raw)
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
