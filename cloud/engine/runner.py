"""One step on the device: slices in, the next tokens and how sure they are out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from backbone.network import Network
from backbone.sampling import Sampler, choose, confidence
from cloud.engine.attention.base import AttentionBackend
from cloud.engine.batch import StepBatch, build_batch
from cloud.engine.fused import FusedNetwork
from cloud.engine.scheduler import Slice
from offload.messages import Confidence

if TYPE_CHECKING:
    from cloud.engine.graphs import DecodeGraphs  # brings Triton


@dataclass(frozen=True)
class Outcome:
    """The next token of a sequence."""

    token: int
    confidence: Confidence


class Runner:
    """Owns the network, and runs it over a batch of slices."""

    def __init__(
        self,
        network: Network | FusedNetwork,
        attention: AttentionBackend,
        block_size: int,
        graphs: DecodeGraphs | None = None,
    ) -> None:
        self._network = network
        self._attention = attention
        self._graphs = graphs
        self._block_size = block_size
        self._device = network.inverse.device

    def step(self, slices: Sequence[Slice]) -> list[Outcome | None]:
        """Compute the slices; one that completes its sequence has an outcome, others None.

        Nothing is recorded on the sequences, so that a step that fails can be repeated.
        """
        with torch.inference_mode(), on_device(self._device):
            return self._step(slices)

    def _step(self, slices: Sequence[Slice]) -> list[Outcome | None]:
        batch = build_batch(slices, self._block_size, self._device)
        choosing = [i for i, slice_ in enumerate(slices) if slice_.completes]
        logits = self._logits(batch, choosing)
        outcomes: list[Outcome | None] = [None] * len(slices)
        if choosing:
            samplers = [slices[i].sequence.sampler for i in choosing]
            for i, outcome in zip(choosing, _choose(logits, samplers), strict=True):
                outcomes[i] = outcome
        return outcomes

    def _logits(self, batch: StepBatch, choosing: list[int]) -> Tensor:
        """Return logits [choosing, vocab] of the rows' last tokens."""
        all_choose = len(choosing) == len(batch.rows)
        if self._graphs is not None and all_choose and self._graphs.fits(batch):
            return self._graphs.logits(batch)
        self._attention.prepare(batch)
        hidden = self._network(batch.tokens, batch.positions, self._attention.attend)
        if len(choosing) != len(batch.tokens):
            ends = [batch.rows[i].first + batch.rows[i].num_new - 1 for i in choosing]
            hidden = hidden[torch.tensor(ends, dtype=torch.int64, device=hidden.device)]
        return self._network.logits(hidden)


def on_device(device: torch.device) -> AbstractContextManager[object]:
    """Make a GPU the current one, as Triton and CUDA graphs want; nothing on a CPU."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _choose(logits: Tensor, samplers: list[Sampler]) -> list[Outcome]:
    tokens = choose(logits, samplers)
    # One copy to the host for both; float32 would not hold every token id.
    sure = confidence(logits, tokens).double()
    both = torch.cat((tokens.unsqueeze(-1).double(), sure), -1).tolist()
    return [Outcome(int(token), Confidence(*values)) for token, *values in both]


Step = Callable[[Sequence[Slice]], "list[Outcome | None]"]
