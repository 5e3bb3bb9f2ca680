"""Kept inputs: what one matrix was fed, in a temporary file until it is needed once more."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from math import prod

import torch
from torch import Tensor


class KeptInputs:
    """Inputs of one matrix, batch by batch in bfloat16: two bytes, and no number is too large.

    They are read and written, not mapped: of memory they take one batch.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="nearfar-inputs-")  # noqa: SIM115
        self._shapes: list[torch.Size] = []

    def add(self, inputs: Tensor) -> None:
        """Keep the inputs of one more batch, [..., in]."""
        self._shapes.append(inputs.shape)
        self._file.write(inputs.bfloat16().cpu().contiguous().view(torch.uint8).numpy().data)

    def batches(self) -> Iterator[Tensor]:
        """Yield what was kept, in float32 and in the same order."""
        self._file.seek(0)
        for shape in self._shapes:
            raw = bytearray(2 * prod(shape))
            self._file.readinto(raw)
            yield torch.frombuffer(raw, dtype=torch.bfloat16).view(shape).float()

    def close(self) -> None:
        """Delete the file."""
        self._file.close()
