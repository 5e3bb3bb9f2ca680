"""A step under way: what it chooses stays on the device until somebody asks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from backbone.host_to_device import to_device
from cloud.engine.kv.batch import StepBatch
from cloud.engine.sampling_step import as_chosen
from cloud.engine.scheduler import Slice
from cloud.engine.step_result import StepResult


class Flight:
    """A launched step; `tokens` are its choices, on the device, one of each slice that chooses."""

    def __init__(self, slices: Sequence[Slice], chosen: Tensor) -> None:
        """`chosen` is float64 [choosing slices, 4], as choosing.choices gives them."""
        self.slices = slices
        self.began_s = time.monotonic()
        choosing = [slice_.sequence for slice_ in slices if slice_.completes]
        self.row_of = {sequence: row for row, sequence in enumerate(choosing)}
        self.tokens = chosen[:, 0].long()
        self._told, self._arrived = _to_host(chosen)

    def outcomes(self) -> list[StepResult]:
        """Wait for the device, and return what became of each slice."""
        if self._arrived is not None:
            self._arrived.synchronize()
        rows = iter(self._told.tolist())
        return [
            StepResult((as_chosen(next(rows)),)) if slice_.completes else StepResult()
            for slice_ in self.slices
        ]


def fed(batch: StepBatch, slices: Sequence[Slice], after: Flight | None) -> StepBatch:
    """Return a batch whose unknown tokens are those that the flight before it has chosen."""
    places: list[tuple[int, int]] = []
    for slice_, row in zip(slices, batch.rows, strict=True):
        if slice_.sequence.num_unknown:
            assert after is not None, "a token is unknown and nothing is under way"
            # It is the last of its sequence, and of its row.
            places.append((row.first + row.num_new - 1, after.row_of[slice_.sequence]))
    if not places or after is None:
        return batch
    at, rows = to_device(torch.tensor(places).T.contiguous(), batch.tokens.device)
    tokens = batch.tokens.index_copy(0, at, after.tokens.index_select(0, rows))
    return replace(batch, tokens=tokens)


def _to_host(chosen: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    """Start the copy to the host; it is whole when the event has come."""
    if chosen.device.type != "cuda":
        return chosen, None
    told = torch.empty(chosen.shape, dtype=chosen.dtype, pin_memory=True)
    told.copy_(chosen, non_blocking=True)
    arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
    arrived.record()
    return told, arrived
