"""One model over several processes: each holds a share of every layer's heads and channels.

Queries, keys, values, gate and up are cut by rows, the two projections back by columns, so that a
layer adds up its partial results twice (Megatron-LM, arXiv 1909.08053). The first process is the
engine: it plans and chooses, and tells the others each step, as one tensor of integers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, distributed, nn

from backbone.config import NetworkConfig
from backbone.network import Network
from cloud.engine.batch import Row, StepBatch
from offload.errors import SettingsError

_BY_ROWS = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
_BY_COLUMNS = ("o_proj", "down_proj")


class Group:
    """The processes that run one model; `rank` 0 leads."""

    def __init__(self, size: int, device: torch.device) -> None:
        """Meet the others as torchrun's variables say. Raises SettingsError where none are set."""
        self.size = size
        self._device = device
        try:
            if not distributed.is_initialized():
                distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
        except (ValueError, RuntimeError) as error:
            raise SettingsError(
                f"tensor_parallel_size is {size} and the processes did not meet "
                f"({str(error).splitlines()[0]}); start them with torchrun"
            ) from None
        self.rank = distributed.get_rank()
        if distributed.get_world_size() != size:
            raise SettingsError(
                f"tensor_parallel_size is {size} and {distributed.get_world_size()} processes "
                "were started; make them equal"
            )

    def add_up(self, partial: Tensor) -> Tensor:
        """Return the sum of all processes' tensors."""
        distributed.all_reduce(partial)
        return partial

    def least(self, value: int) -> int:
        """Return the least of all processes' values."""
        found = torch.tensor(value, device=self._device)
        distributed.all_reduce(found, distributed.ReduceOp.MIN)
        return int(found)

    def tell(self, batch: StepBatch | None) -> None:
        """Tell the others what the next step computes; None ends them."""
        words = torch.tensor([] if batch is None else _pack(batch), dtype=torch.int64)
        size = torch.tensor(len(words), device=self._device)
        distributed.broadcast(size, 0)
        if len(words):
            distributed.broadcast(words.to(self._device), 0)

    def hear(self) -> StepBatch | None:
        """Return what the first process tells."""
        size = torch.tensor(0, device=self._device)
        distributed.broadcast(size, 0)
        if not int(size):
            return None
        words = torch.zeros(int(size), dtype=torch.int64, device=self._device)
        distributed.broadcast(words, 0)
        return _unpack(words)

    def leave(self) -> None:
        """End the group; the first process also ends the others."""
        if self.rank == 0:
            self.tell(None)
        distributed.destroy_process_group()


def shared_config(config: NetworkConfig, size: int) -> NetworkConfig:
    """Return the shape of one process's share. Raises SettingsError where it cannot be cut."""
    for name in ("num_attention_heads", "num_key_value_heads", "intermediate_size"):
        if getattr(config, name) % size:
            raise SettingsError(
                f"tensor_parallel_size is {size} and does not divide the model's "
                f"{name}={getattr(config, name)}"
            )
    return replace(
        config,
        num_attention_heads=config.num_attention_heads // size,
        num_key_value_heads=config.num_key_value_heads // size,
        intermediate_size=config.intermediate_size // size,
    )


def keep_share(network: Network, group: Group) -> None:
    """Cut every layer of a whole network down to this process's share."""
    network.config = shared_config(network.config, group.size)
    for name, module in network.layers.named_modules():
        leaf = name.rpartition(".")[2]
        if leaf in _BY_ROWS:
            _cut(module, "weight", 0, group)
            _cut(module, "bias", 0, group)
        elif leaf in _BY_COLUMNS:
            _cut(module, "weight", 1, group)
            bias = getattr(module, "bias", None)
            if group.rank and bias is not None:
                bias.zero_()  # added once, by the first
    for linear in network.layers.modules():
        if isinstance(linear, nn.Linear):
            linear.out_features, linear.in_features = linear.weight.shape


def follow(group: Group, compute: Callable[[StepBatch], object]) -> None:
    """Compute this process's share of every step until the first process leaves."""
    while (batch := group.hear()) is not None:
        compute(batch)
    group.leave()


def _cut(module: nn.Module, name: str, dim: int, group: Group) -> None:
    whole = getattr(module, name, None)
    if whole is not None:
        share = whole.chunk(group.size, dim)[group.rank].clone()
        setattr(module, name, nn.Parameter(share, requires_grad=False))


def _pack(batch: StepBatch) -> list[int]:
    words = [len(batch.tokens)]
    for part in (batch.tokens, batch.positions, batch.slots):
        words += part.tolist()
    for row in batch.rows:
        words += [row.first, row.num_new, row.num_context, len(row.blocks), *row.blocks]
    return words


def _unpack(words: Tensor) -> StepBatch:
    values = words.tolist()
    count, at = values[0], 1
    parts = [words[at + i * count : at + (i + 1) * count] for i in range(3)]
    at += 3 * count
    rows = []
    while at < len(values):
        first, num_new, num_context, num_blocks = values[at : at + 4]
        at += 4 + num_blocks
        rows.append(Row(first, num_new, num_context, values[at - num_blocks : at]))
    return StepBatch(parts[0], parts[1], parts[2], rows)
