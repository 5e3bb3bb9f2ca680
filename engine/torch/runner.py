"""The runner of one step on the device: slices in, next tokens and their confidence out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from backbone.fast_tensor_ops import to_device
from backbone.fused_network import FusedNetwork
from backbone.network import Network
from engine.torch.attention.base import AttentionBackend
from engine.torch.kv.batch import BatchRow, StepBatch
from engine.torch.kv.kv_cache import KVCache
from engine.torch.sampling_step import choices, choose_tokens, pieces, score_tokens
from engine.torch.step import (
    NextToken,
    Scored,
    Slice,
    StepInFlight,
    StepResult,
    fill_placeholders,
)
from engine.torch.tensor_parallel import Group, run_group_worker

if TYPE_CHECKING:
    from engine.torch.cuda_graphs import DecodeGraphs  # brings Triton
Step = Callable[[Sequence[Slice]], "list[StepResult]"]


class Runner:
    """Runner of the network over batches of slices."""

    def __init__(
        self,
        network: Network | FusedNetwork,
        attention: AttentionBackend,
        lay_out: Callable[[Sequence[Slice]], StepBatch],
        graphs: DecodeGraphs | None = None,
        group: Group | None = None,
    ) -> None:
        """`lay_out` makes the batch of a step, as the attention reads it."""
        self._group = group
        self.network = network
        self.attention = attention
        self.graphs = graphs
        self._lay_out = lay_out
        self._device = network.inverse.device
        self.num_steps = 0

    def step(self, slices: Sequence[Slice]) -> list[StepResult]:
        """Compute the slices; one that completes its sequence chooses what comes next.

        Nothing is recorded on the sequences, so that a step that fails can be repeated.
        """
        self.num_steps += 1
        with torch.inference_mode(), on_device(self._device):
            return self._step(slices)

    def launch(self, slices: Sequence[Slice], after: StepInFlight | None = None) -> StepInFlight:
        """Start a step, and return before its outcome is known; drafts and scores have none here.

        Tokens that `after` has chosen are taken from where it put them on the device.
        """
        self.num_steps += 1
        with torch.inference_mode(), on_device(self._device):
            known = self._lay_out(slices)
            batch = fill_placeholders(known, slices, after)
            if self.graphs is not None and self._recorded(slices, batch):
                logits = self.graphs.logits(batch)
            else:
                hidden = self._hidden(batch, is_filled=batch is not known)
                logits = self.network.logits(_ends(hidden, slices, batch.rows))
            choosing = [slice_.sequence for slice_ in slices if slice_.completes]
            return StepInFlight(slices, choices(logits, choosing) if choosing else logits)

    def _step(self, slices: Sequence[Slice]) -> list[StepResult]:
        batch = self._lay_out(slices)
        if self.graphs is not None and self._recorded(slices, batch):
            logits = self.graphs.logits(batch)
            return [
                StepResult((one,)) for one in choose_tokens(logits, [s.sequence for s in slices])
            ]
        hidden = self._hidden(batch)
        chosen = self._choose(hidden, slices, batch.rows)
        scored = [
            self._score(hidden, slice_, row) if slice_.sequence.wants_scores else ()
            for slice_, row in zip(slices, batch.rows, strict=True)
        ]
        return [StepResult(*both) for both in zip(chosen, scored, strict=True)]

    def last_logits(self, slices: Sequence[Slice]) -> Tensor:
        """Return the float32 logits behind the last token of each slice, [slices, vocab]."""
        with torch.inference_mode(), on_device(self._device):
            batch = self._lay_out(slices)
            return self.network.logits(_ends(self._hidden(batch), slices, batch.rows))

    def compute(self, batch: StepBatch) -> Tensor:
        self.attention.prepare(batch)
        return self.network(batch.tokens, batch.positions, self.attention.attend)

    def _hidden(self, batch: StepBatch, *, is_filled: bool = False) -> Tensor:
        if self._group is None:
            return self.compute(batch)
        with self._group.in_step():
            self._group.send_step(batch, is_filled=is_filled)
            return self.compute(batch)

    def warm_up(self, cache: KVCache) -> None:
        """Run every kind of step once, before anybody waits; each process of a group does."""
        with torch.inference_mode(), on_device(self._device):
            _warm_up(self.compute, cache)

    def run_worker(self) -> None:
        """Compute this process's share of the steps of another, which leads."""
        assert self._group is not None, "only a shared model has a leader"
        with torch.inference_mode(), on_device(self._device):
            run_group_worker(self._group, self.compute)

    def leave(self) -> None:
        """End the other processes, where the model is shared."""
        if self._group is not None:
            self._group.leave()

    def _recorded(self, slices: Sequence[Slice], batch: StepBatch) -> bool:
        """Whether a CUDA graph can do the step: it has one row a sequence, and all choose."""
        assert self.graphs is not None, "asked only where there are graphs"
        return self.graphs.fits(batch) and all(
            slice_.completes and not slice_.sequence.wants_scores for slice_ in slices
        )

    def _choose(
        self, hidden: Tensor, slices: Sequence[Slice], rows: Sequence[BatchRow]
    ) -> list[tuple[NextToken, ...]]:
        """Choose after the last known token of every sequence, and after each token drafted."""
        sequences = []
        for slice_ in slices:
            if slice_.completes:
                sequences += [slice_.sequence] * (len(slice_.draft) + 1)
        if not sequences:
            return [()] * len(slices)
        logits = self.network.logits(_ends(hidden, slices, rows))
        found = iter(choose_tokens(logits, sequences))
        return [_agreed(slice_, found) if slice_.completes else () for slice_ in slices]

    def _score(self, hidden: Tensor, slice_: Slice, row: BatchRow) -> tuple[Scored, ...]:
        """Score the tokens of the prompt that follow those of this slice."""
        sequence = slice_.sequence
        assert sequence.num_scored is not None, "asked only where scores are wanted"
        start = sequence.num_computed
        # The hidden state of each token says how likely the next one is.
        first = max(sequence.num_scored - 1, start)
        last = min(start + slice_.num_tokens, sequence.scores_until - 1)
        if first >= last:
            return ()
        states = hidden[row.first + first - start : row.first + last - start]
        known = torch.tensor(sequence.tokens[first + 1 : last + 1])
        following = to_device(known, hidden.device)
        found: list[Scored] = []
        for cut in pieces(last - first):
            logits = self.network.logits(states[cut])
            found += score_tokens(logits, following[cut], sequence.num_alternatives)
        return tuple(found)


def on_device(device: torch.device) -> AbstractContextManager[object]:
    """Make a GPU the current one, as Triton and CUDA graphs want; nothing on a CPU."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _ends(hidden: Tensor, slices: Sequence[Slice], rows: Sequence[BatchRow]) -> Tensor:
    """Return the states of [tokens, hidden] behind which a token is chosen."""
    ends: list[int] = []
    for slice_, row in zip(slices, rows, strict=True):
        if slice_.completes:
            end = row.first + row.num_new
            ends += range(end - len(slice_.draft) - 1, end)
    if len(ends) == len(hidden):
        return hidden
    if len(ends) == 1:
        return hidden[ends[0] : ends[0] + 1]
    return hidden.index_select(0, to_device(torch.tensor(ends, dtype=torch.int64), hidden.device))


def _agreed(slice_: Slice, found: Iterator[NextToken]) -> tuple[NextToken, ...]:
    """Return the choices up to the first that the draft did not foresee, and that one."""
    choices = [next(found) for _ in range(len(slice_.draft) + 1)]
    agreed = 0
    while agreed < len(slice_.draft) and choices[agreed].token == slice_.draft[agreed]:
        agreed += 1
    return tuple(choices[: agreed + 1])


def _warm_up(compute: Callable[[StepBatch], object], cache: KVCache) -> None:
    """Compute one token, a block of a prompt, and both at once; only the scratch block is written.

    A backend compiles its kernels here, and the device lays out its workspaces.
    """
    for counts in ([1], [cache.block_size], [1, cache.block_size]):
        compute(_on_scratch(counts, cache))


def _on_scratch(counts: Sequence[int], cache: KVCache) -> StepBatch:
    rows: list[BatchRow] = []
    at: list[int] = []
    for count in counts:
        rows.append(BatchRow(len(at), count, count, [cache.num_blocks]))
        at += range(count)
    positions = torch.tensor(at)
    on_host = torch.stack((torch.zeros_like(positions), positions, cache.scratch_slot + positions))
    tokens, positions, slots = to_device(on_host, cache.keys[0].device)
    return StepBatch(tokens, positions, slots, rows, on_host)
