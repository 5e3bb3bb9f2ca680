"""CUDA graphs of decode steps: recorded once, replayed without the cost of every launch.

A batch is padded to the next recorded size. Padding rows have no keys and write to a scratch
place in the cache. Not yet measured on a GPU.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from backbone.fast_tensor_ops import to_device
from backbone.fused_network import FusedNetwork
from backbone.network import Network
from engine.torch.attention.triton_decode import TritonDecode
from engine.torch.kv.batch import StepBatch, block_tables
from engine.torch.kv.kv_cache import KVCache

# Runs a step, and returns what does it again with the same memory.
Capture = Callable[[Callable[[], object]], Callable[[], object]]


def graph_sizes(max_num_seqs: int) -> list[int]:
    """Return the batch sizes to record: dense where a row is a large part of the batch."""
    sizes = [1, 2, 4, *range(8, max_num_seqs, 8), max_num_seqs]
    return sorted({size for size in sizes if size <= max_num_seqs})


class DecodeGraphs:
    """CUDA graphs of decode steps: static inputs, a recording per size, one memory pool."""

    def __init__(
        self,
        network: Network | FusedNetwork,
        cache: KVCache,
        sizes: Sequence[int],
        *,
        max_model_len: int,
        capture: Capture,
    ) -> None:
        device = cache.keys[0].device
        largest, width = max(sizes), -(-max_model_len // cache.block_size)
        self._sizes = sorted(sizes)
        self._scratch = cache.scratch_slot
        self._inputs = torch.zeros(3, largest, dtype=torch.int64, device=device)
        self._inputs[2] = self._scratch
        self._tables = torch.zeros(largest, width, dtype=torch.int32, device=device)
        self._lengths = torch.zeros(largest, dtype=torch.int32, device=device)
        # Of all recordings: one of its own for each would take gigabytes of a large vocabulary.
        self._logits = torch.zeros(largest, network.config.vocab_size, device=device)
        self._network = network
        self._attention = TritonDecode(network.config, cache)
        # The largest first, so that the smaller ones find its memory free.
        self._recorded = {size: capture(self._step(size)) for size in reversed(self._sizes)}
        self.num_replays = 0

    def fits(self, batch: StepBatch) -> bool:
        """Return whether a batch is all decode and no larger than what was recorded."""
        return len(batch.rows) == len(batch.tokens) <= self._sizes[-1]

    def logits(self, batch: StepBatch) -> Tensor:
        """Return logits [rows, vocab] of a batch that fits; valid until the next call."""
        count = len(batch.rows)
        size = self._sizes[bisect_left(self._sizes, count)]
        self._fill(batch, count, size)
        self._recorded[size]()
        self.num_replays += 1
        return self._logits[:count]

    def _step(self, size: int) -> Callable[[], object]:
        tokens, positions, slots = self._inputs[:, :size]
        lengths, table = self._lengths[:size], self._tables[:size]

        def step() -> object:
            self._attention.use(slots, table, lengths)
            hidden = self._network(tokens, positions, self._attention.attend)
            return self._logits[:size].copy_(self._network.logits(hidden))

        return step

    def _fill(self, batch: StepBatch, count: int, size: int) -> None:
        self._inputs[0, :count] = batch.tokens
        self._inputs[1, :count] = batch.positions
        self._inputs[2, :count] = batch.slots
        self._inputs[2, count:size] = self._scratch
        # What is left of others behind a row's own blocks is not read: its length ends before.
        tables, lengths = block_tables(batch.rows)
        self._tables[:count, : tables.shape[1]] = to_device(tables, self._tables.device)
        self._lengths[:count] = to_device(lengths, self._tables.device)
        self._lengths[count:size] = 0


def cuda_capture() -> Capture:
    """Return what records on the current GPU, in one memory pool."""
    pool = torch.cuda.graph_pool_handle()

    def capture(step: Callable[[], object]) -> Callable[[], object]:
        # Kernels are compiled and workspaces laid out before recording, on a side stream.
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            step()
        return graph.replay

    return capture
