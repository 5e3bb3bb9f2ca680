"""The row of tokens that llama.cpp's samplers reorder, cut and choose from."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt

from edge.llama.library import llama

_TOKEN = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])


class Candidates:
    """Memory for one row, filled anew at each step."""

    def __init__(self, num_vocabulary: int) -> None:
        lib = llama()
        assert ctypes.sizeof(lib.llama_token_data) == _TOKEN.itemsize
        self._ids = np.arange(num_vocabulary, dtype=np.int32)
        self._row = np.empty(num_vocabulary, _TOKEN)
        self._array = lib.llama_token_data_array()
        self._pointer = ctypes.pointer(self._array)
        self._lib = lib

    def fill(self, logits: npt.NDArray[np.float32]) -> None:
        """Take all tokens with these logits, [vocabulary]."""
        self._row["id"], self._row["logit"], self._row["p"] = self._ids, logits, 0.0
        self._reset(len(self._ids))

    def fill_some(self, tokens: npt.NDArray[np.int64], logits: npt.NDArray[np.float32]) -> None:
        """Take some tokens, with their logits out of those of all, [vocabulary]."""
        size = len(tokens)
        self._row["id"][:size], self._row["logit"][:size] = tokens, logits[tokens]
        self._row["p"][:size] = 0.0
        self._reset(size)

    def fill_one(self, token: int) -> None:
        """Take a single token."""
        self._row[0] = (token, 0.0, 0.0)
        self._reset(1)

    def _reset(self, size: int) -> None:
        self._array.data = self._row.ctypes.data_as(ctypes.POINTER(self._lib.llama_token_data))
        self._array.size, self._array.selected, self._array.sorted = size, -1, False

    def apply(self, sampler: Any) -> None:
        """Let one of llama.cpp's samplers work on the row."""
        self._lib.llama_sampler_apply(sampler, self._pointer)

    def first_is_allowed(self) -> bool:
        """Return whether the first token has not been forbidden."""
        return bool(self._array.data[0].logit > float("-inf"))

    def selected(self) -> int | None:
        """Return the chosen token, None where every one is forbidden."""
        chosen = self._array.data[self._array.selected]
        return int(chosen.id) if chosen.logit > float("-inf") else None
