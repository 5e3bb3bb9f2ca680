"""A row of tokens that llama.cpp's grammar sampler forbids some of."""

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
        self._row = np.zeros(num_vocabulary, _TOKEN)
        self._array = lib.llama_token_data_array()
        self._pointer = ctypes.pointer(self._array)
        self._lib = lib

    def fill_all(self) -> None:
        """Take every token, none of them forbidden."""
        self._row["id"], self._row["logit"] = np.arange(len(self._row)), 0.0
        self._reset(len(self._row))

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

    def allowed(self) -> npt.NDArray[np.int64]:
        """Return the tokens that have not been forbidden, in ascending order."""
        return np.sort(self._row["id"][self._row["logit"] > -np.inf]).astype(np.int64)
