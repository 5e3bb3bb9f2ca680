"""Tensor parallelism: several processes each hold a share of every layer's heads and channels.

A layer adds up its partial results twice (Megatron-LM, arXiv 1909.08053; backbone/tensor_shard.py
says who holds what). The first process is the engine: it plans and chooses, and sends the others
each step, as one tensor of integers.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import cast

import torch
from torch import Tensor, distributed, nn

from backbone.fast_tensor_ops import to_device
from backbone.network import DecoderLayer, Network
from engine.torch.kv.batch import BatchRow, StepBatch
from offload.errors import SettingsError

# An engine may have nothing to do for days, and the others wait for its word all the while. One
# that dies is noticed by its closed connection, not by this.
_TIMEOUT = timedelta(days=365)


@dataclass(frozen=True, kw_only=True)
class Rendezvous:
    """Rendezvous of the processes of one model: its address, and this one's rank; 0 leads."""

    rank: int
    size: int
    address: str = "env://"  # torch.distributed's init_method; torchrun's variables

    @classmethod
    def by_torchrun(cls, size: int) -> Rendezvous | None:
        """Return the rendezvous that torchrun's variables say, or None where there are none.

        Raises SettingsError where torchrun started another number of processes.
        """
        if "RANK" not in os.environ:
            return None
        started = int(os.environ.get("WORLD_SIZE", "1"))
        if started != size:
            raise SettingsError(
                f"tensor_parallel_size is {size} and {started} processes were started; make them "
                "equal"
            )
        return cls(rank=int(os.environ["RANK"]), size=size)


class GroupLost(RuntimeError):
    """A group whose step failed: how far each process is in it cannot be known."""


def stay_on_loopback() -> None:
    """Let gloo and NCCL listen on this machine alone: who connects to them is asked for no key.

    Without it they listen where the machine's name leads, which others may reach.
    """
    names = {name for _, name in socket.if_nameindex()} if hasattr(socket, "if_nameindex") else {}
    for loopback in ("lo", "lo0"):
        if loopback in names:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)
            os.environ.setdefault("NCCL_SOCKET_IFNAME", loopback)


class Group:
    """Group of the processes that run one model; `rank` 0 leads."""

    def __init__(self, rendezvous: Rendezvous, device: torch.device) -> None:
        """Wait for the others. Raises SettingsError where they do not come."""
        self.rank, self.size = rendezvous.rank, rendezvous.size
        self._lost = False
        if rendezvous.address.startswith("file://"):  # all of them were started here
            stay_on_loopback()
        try:
            distributed.init_process_group(
                "nccl" if device.type == "cuda" else "gloo",
                init_method=rendezvous.address,
                rank=rendezvous.rank,
                world_size=rendezvous.size,
                timeout=_TIMEOUT,
            )
            # Steps are sent on the host's own network, which NCCL does not use.
            self._host_group = distributed.new_group(backend="gloo", timeout=_TIMEOUT)
        except (ValueError, RuntimeError) as error:
            raise SettingsError(
                f"tensor_parallel_size is {rendezvous.size} and the processes did not meet "
                f"({str(error).splitlines()[0]}); end what is left of them and start again"
            ) from None
        self._device = device

    def all_reduce(self, partial: Tensor) -> Tensor:
        """Return the sum of all processes' tensors."""
        distributed.all_reduce(partial)
        return partial

    def minimum(self, value: int) -> int:
        """Return the least of all processes' values."""
        found = torch.tensor(value, device=self._device)
        distributed.all_reduce(found, distributed.ReduceOp.MIN)
        return int(found)

    def send_step(self, batch: StepBatch | None, *, is_filled: bool = False) -> None:
        """Send the next step to the other processes; None ends them.

        Tokens of a batch that `is_filled` are on the device alone, and go from device to device.
        """
        words = torch.tensor(
            [] if batch is None else pack_step(batch, is_filled), dtype=torch.int64
        )
        distributed.broadcast(torch.tensor(len(words)), 0, group=self._host_group)
        if len(words):
            distributed.broadcast(words, 0, group=self._host_group)
        if batch is not None and is_filled:
            distributed.broadcast(batch.tokens, 0)

    def receive_step(self) -> StepBatch | None:
        """Receive a step from the first process."""
        size = torch.tensor(0)
        distributed.broadcast(size, 0, group=self._host_group)
        if not int(size):
            return None
        words = torch.zeros(int(size), dtype=torch.int64)
        distributed.broadcast(words, 0, group=self._host_group)
        batch, is_filled = unpack_step(words, self._device)
        if is_filled:
            distributed.broadcast(batch.tokens, 0)
        return batch

    @contextmanager
    def in_step(self) -> Iterator[None]:
        """Compute a step that was sent. Raises GroupLost where the block fails."""
        try:
            yield
        except Exception as error:
            self._lost = True
            raise GroupLost(f"a step of the shared model failed: {type(error).__name__}") from error

    def leave(self) -> None:
        """End the group; the first process also ends the others, while they still listen."""
        if self.rank == 0 and not self._lost:
            # One that died already is not there to receive it.
            with suppress(RuntimeError):
                self.send_step(None)
        distributed.destroy_process_group()


def with_sums(network: Network, all_reduce: Callable[[Tensor], Tensor]) -> Network:
    """Return a network, not fused, whose layers add up what every process has of them."""
    for block in network.layers:
        attention, feed = cast(DecoderLayer, block).self_attn, cast(DecoderLayer, block).mlp
        attention.o_proj = cast(nn.Linear, _Summed(attention.o_proj, all_reduce))
        feed.down_proj = _Summed(cast(nn.Module, feed.down_proj), all_reduce)
    return network


class _Summed(nn.Module):
    def __init__(self, partial: nn.Module, all_reduce: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.partial = partial
        self._all_reduce = all_reduce

    def forward(self, x: Tensor) -> Tensor:
        return self._all_reduce(self.partial(x).contiguous())


def run_group_worker(group: Group, compute: Callable[[StepBatch], object]) -> None:
    """Compute this process's share of every step until the first process leaves."""
    while (batch := group.receive_step()) is not None:
        compute(batch)
    group.leave()


def pack_step(batch: StepBatch, is_filled: bool = False) -> list[int]:
    assert batch.on_host is not None, "only what lies on the host can be sent without waiting"
    words = [len(batch.tokens), int(is_filled), *batch.on_host.flatten().tolist()]
    for row in batch.rows:
        words += [row.first, row.num_new, row.num_context, len(row.blocks), *row.blocks]
    return words


def unpack_step(words: Tensor, device: torch.device) -> tuple[StepBatch, bool]:
    values = words.tolist()
    count, is_filled, at = values[0], bool(values[1]), 2
    on_device = to_device(words, device)
    parts = [on_device[at + i * count : at + (i + 1) * count] for i in range(3)]
    at += 3 * count
    rows = []
    while at < len(values):
        first, num_new, num_context, num_blocks = values[at : at + 4]
        at += 4 + num_blocks
        rows.append(BatchRow(first, num_new, num_context, values[at - num_blocks : at]))
    return StepBatch(parts[0], parts[1], parts[2], rows), is_filled
