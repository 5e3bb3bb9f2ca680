"""One step of the network for several answers: the weights are read once for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from backbone.attention import Attend
from backbone.network import Network
from edge.small_gpu.block_store import to_device
from edge.small_gpu.ring_cache import Ring
from edge.small_gpu.sampling_step import LogitsRow, SampledToken, find


@dataclass(frozen=True, kw_only=True)
class StepPart:
    """One answer's share of a step: tokens for its ring, and what to find behind the last."""

    ring: Ring
    tokens: Sequence[int]
    rows: Sequence[LogitsRow] = ()


class Step:
    """Evaluates parts side by side. The rings hold none of it until they are told to advance."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._device = network.embed_tokens.weight.device

    @torch.inference_mode()
    def __call__(self, parts: Sequence[StepPart]) -> list[list[SampledToken]]:
        """Return what was found in the rows of each part."""
        tokens = [token for part in parts for token in part.tokens]
        ids = to_device(tokens, self._device)
        # Position 0 for all: the rings rotate, see there.
        hidden = self._network(ids, torch.zeros_like(ids), _attend_apart(parts))
        rows = [row for part in parts for row in part.rows]
        if not rows:
            return [[] for _ in parts]
        places = to_device(_row_places(parts), self._device)
        found = iter(find(self._network.logits(hidden[places]), rows))
        return [[next(found) for _ in part.rows] for part in parts]


def _attend_apart(parts: Sequence[StepPart]) -> Attend:
    """Return attention in which each part sees its own ring and nothing of the others."""
    sizes = [len(part.tokens) for part in parts]

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        shares = zip(parts, *(torch.split(each, sizes) for each in (q, k, v)), strict=True)
        return torch.cat([part.ring.attend(layer, *share) for part, *share in shares])

    return attend


def _row_places(parts: Sequence[StepPart]) -> list[int]:
    """Return where the tokens whose logits are wanted stand among those of all parts."""
    places: list[int] = []
    stop = 0
    for part in parts:
        stop += len(part.tokens)
        places += range(stop - len(part.rows), stop)
    return places
