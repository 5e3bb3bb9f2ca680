"""One step on the device: slices in, the next tokens and how sure they are out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from backbone.network import Network
from backbone.sampling import choose, confidence
from cloud.engine.attention.base import AttentionBackend
from cloud.engine.batch import StepBatch, build_batch
from cloud.engine.fused import FusedNetwork
from cloud.engine.scheduler import Slice
from offload.messages import Confidence


@dataclass(frozen=True)
class Outcome:
    """The next token of a sequence."""

    token: int
    confidence: Confidence


class Runner:
    """Owns the network, and runs it over a batch of slices."""

    def __init__(
        self, network: Network | FusedNetwork, attention: AttentionBackend, block_size: int
    ) -> None:
        self._network = network
        self._attention = attention
        self._block_size = block_size
        self._device = network.inverse.device

    @torch.inference_mode()
    def step(self, slices: Sequence[Slice]) -> list[Outcome | None]:
        """Compute the slices; one that completes its sequence has an outcome, others None.

        Nothing is recorded on the sequences, so that a step that fails can be repeated.
        """
        batch = build_batch(slices, self._block_size, self._device)
        hidden = self._forward(batch)
        choosing = [i for i, slice_ in enumerate(slices) if slice_.completes]
        outcomes: list[Outcome | None] = [None] * len(slices)
        if choosing:
            ends = [batch.rows[i].first + batch.rows[i].num_new - 1 for i in choosing]
            chosen = self._choose(hidden, ends, [slices[i] for i in choosing])
            for i, outcome in zip(choosing, chosen, strict=True):
                outcomes[i] = outcome
        return outcomes

    def _forward(self, batch: StepBatch) -> Tensor:
        self._attention.prepare(batch)
        hidden: Tensor = self._network(batch.tokens, batch.positions, self._attention.attend)
        return hidden

    def _choose(self, hidden: Tensor, ends: list[int], slices: list[Slice]) -> list[Outcome]:
        if len(ends) != len(hidden):
            hidden = hidden[torch.tensor(ends, device=hidden.device)]
        logits = self._network.logits(hidden)
        tokens = choose(logits, [slice_.sequence.sampler for slice_ in slices])
        # One copy to the host for both; doubles hold every token id exactly.
        both = torch.cat((tokens.unsqueeze(-1), confidence(logits, tokens)), -1).tolist()
        return [Outcome(int(token), Confidence(*sure)) for token, *sure in both]


Step = Callable[[Sequence[Slice]], "list[Outcome | None]"]
