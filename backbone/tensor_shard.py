"""Tensor shard: the rows or columns of each matrix that one process holds and reads.

Queries, keys, values, gate and up are cut by rows, the two projections back by columns
(Megatron-LM, arXiv 1909.08053); all else is whole in every process.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from backbone.config import NetworkConfig
from backbone.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

_BY_ROWS = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
_BY_COLUMNS = ("o_proj", "down_proj")
_DIVIDED = (
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "moe_intermediate_size",
)


class ShardError(CheckpointError):
    """A model whose layers cannot be cut into so many shares."""


@dataclass(frozen=True)
class TensorShard:
    """Shard `rank` of `size` equal ones; by default the whole tensor."""

    rank: int = 0
    size: int = 1

    def of_config(self, config: NetworkConfig) -> NetworkConfig:
        """Return the shape of the share. Raises ShardError where it cannot be cut."""
        for name in _DIVIDED:
            if getattr(config, name) % self.size:
                raise ShardError(
                    f"{self.size} processes cannot share this model: its {name}="
                    f"{getattr(config, name)} cannot be divided by {self.size}; use another number"
                )
        return replace(config, **{name: getattr(config, name) // self.size for name in _DIVIDED})

    def of_tensor(self, name: str, read: Any, shape: tuple[int, ...]) -> Tensor:
        """Return this shard of a tensor, read from a safetensors slice of the whole.

        `shape` is the share's. Raises CheckpointError where the file's is another.
        """
        dim = cut_dim(name) if self.size > 1 else None
        whole = [n * self.size if i == dim else n for i, n in enumerate(shape)]
        if list(read.get_shape()) != whole:
            raise CheckpointError(
                f"the tensor {name} is {read.get_shape()} and config.json asks for {whole}; "
                "config and weights belong to different models"
            )
        if dim is None:
            tensor: Tensor = read[:]
            # A bias behind a sum over processes is added once, by the first.
            return tensor * 0 if self.rank and _is_summed_bias(name) else tensor
        part = slice(self.rank * shape[dim], (self.rank + 1) * shape[dim])
        tensor = read[part] if dim == 0 else read[:, part]
        return tensor


def cut_dim(name: str) -> int | None:
    """Return which dimension of a tensor is cut: 0 rows, 1 columns, None where it is whole."""
    module, _, leaf = name.rpartition(".")
    kind = module.rpartition(".")[2]
    if kind in _BY_ROWS:
        return 0
    return 1 if kind in _BY_COLUMNS and leaf == "weight" else None


def _is_summed_bias(name: str) -> bool:
    module, _, leaf = name.rpartition(".")
    return leaf == "bias" and module.rpartition(".")[2] in _BY_COLUMNS
