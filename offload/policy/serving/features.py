"""Text features: hashed n-grams of words and of characters, weighed by tf-idf.

Nothing is looked up in a vocabulary, so any text of any language has features, and the hash is
CRC-32 and a multiplication, so the same text has the same features on every machine.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

NUM_BUCKETS = 1 << 18
_HEAD_CHARS, _TAIL_CHARS = 2250, 750
_CHAR_GRAM = 4
_TOKEN = re.compile(r"[^\W_]+|[^\w\s]|_+")
_SPREAD = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio: Fibonacci hashing
_STEP = np.uint64(0x100000001B3)  # the FNV prime


class ReadText:
    """A text read once for all that is measured of it: its start and its end, split into words.

    `num_chars` is the whole text's length; what lies between start and end is not read, so
    that the time is bounded.
    """

    def __init__(self, text: str) -> None:
        self.num_chars = len(text)
        if len(text) > _HEAD_CHARS + _TAIL_CHARS:
            text = f"{text[:_HEAD_CHARS]}\n{text[-_TAIL_CHARS:]}"
        # half a surrogate pair, which no encoding holds, reads as a question mark
        self.text = text = text.encode("utf-8", "replace").decode()
        self.lowered = text.lower()
        self.tokens = _TOKEN.findall(self.lowered)
        self.counts = Counter(self.tokens)


def word_grams(reading: ReadText) -> Ints:
    """Return the buckets of every word and every pair of neighbours."""
    hash_of = {word: zlib.crc32(word.encode()) for word in reading.counts}
    single = np.array([hash_of[word] for word in reading.tokens], dtype=np.uint64)
    pairs = (single[:-1] * _STEP) ^ (single[1:] + np.uint64(7))
    return _buckets(np.concatenate([single + np.uint64(1), pairs]))


def char_grams(reading: ReadText) -> Ints:
    """Return the buckets of every four neighbouring bytes, runs of white space taken as one."""
    plain = f" {' '.join(reading.lowered.split())} ".encode()
    codes = np.frombuffer(plain, dtype=np.uint8).astype(np.uint64)
    length = max(0, len(codes) - _CHAR_GRAM + 1)
    hashed = np.full(length, _CHAR_GRAM, dtype=np.uint64)
    for shift in range(_CHAR_GRAM):
        hashed = (hashed * _STEP) ^ codes[shift : shift + length]
    return _buckets(hashed)


def _buckets(hashed: npt.NDArray[np.uint64]) -> Ints:
    return ((hashed * _SPREAD) >> np.uint64(64 - 18)).astype(np.int64)


GRAMS: dict[str, Callable[[ReadText], Ints]] = {"words": word_grams, "chars": char_grams}


@dataclass(frozen=True)
class SparseRows:
    """Sparse matrix in compressed rows: `indptr` [rows + 1], `indices` and `values` [entries]."""

    indptr: Ints
    indices: Ints
    values: Floats
    num_columns: int

    def __len__(self) -> int:
        return len(self.indptr) - 1

    def gram(self) -> Floats:
        """Return the inner products of all rows, [rows, rows]."""
        product = np.zeros((len(self), len(self)))
        dense = np.zeros(self.num_columns)
        for row in range(len(self)):
            mine = slice(self.indptr[row], self.indptr[row + 1])
            dense[self.indices[mine]] = self.values[mine]
            product[row, : row + 1] = self._times(dense, row + 1)
            dense[self.indices[mine]] = 0.0
        return product + np.tril(product, -1).T

    def _times(self, dense: Floats, num_rows: int) -> Floats:
        end = self.indptr[num_rows]
        steps = np.append(0.0, np.cumsum(dense[self.indices[:end]] * self.values[:end]))
        return np.asarray(np.diff(steps[self.indptr[: num_rows + 1]]), dtype=np.float64)

    def transposed_times(self, weights: Floats) -> Floats:
        """Return one weight per column: the rows summed, each times its weight. [columns]"""
        each = np.repeat(weights, np.diff(self.indptr)) * self.values
        summed = np.bincount(self.indices, each, minlength=self.num_columns)
        return np.asarray(summed, dtype=np.float64)


class TfIdf:
    """Weighs the n-grams of one kind: (1 + log count) * idf, each row of length one.

    `buckets` are the hashed n-grams that were seen in at least `min_rows` texts, sorted; `idf`
    holds log((1 + texts) / (1 + texts with it)) + 1 for each.
    """

    def __init__(self, kind: str, buckets: Ints, idf: Floats) -> None:
        self.kind, self.buckets, self.idf = kind, buckets, idf
        self._grams = GRAMS[kind]
        self._column = np.full(NUM_BUCKETS, len(buckets), dtype=np.int64)
        self._column[buckets] = np.arange(len(buckets))

    @classmethod
    def fit(cls, kind: str, readings: Iterable[ReadText], *, min_rows: int = 3) -> TfIdf:
        """Learn which n-grams matter and how rare they are; needs no labels."""
        rows_with, num_texts = np.zeros(NUM_BUCKETS), 0
        for reading in readings:
            rows_with[np.unique(GRAMS[kind](reading))] += 1
            num_texts += 1
        buckets = np.flatnonzero(rows_with >= min_rows)
        return cls(kind, buckets, np.log((1 + num_texts) / (1 + rows_with[buckets])) + 1)

    def row(self, reading: ReadText) -> tuple[Ints, Floats]:
        """Return the columns of one text and their weights; both empty where none is known."""
        columns = np.sort(self._column[self._grams(reading)])
        columns = columns[: np.searchsorted(columns, len(self.buckets))]
        first = np.ones(len(columns), dtype=bool)
        np.not_equal(columns[1:], columns[:-1], out=first[1:])
        starts = np.append(first.nonzero()[0], len(columns))
        present, counts = columns[starts[:-1]], starts[1:] - starts[:-1]
        values = (1.0 + np.log(counts)) * self.idf[present]
        return present, values / max(float(np.sqrt(values @ values)), 1e-12)

    def rows(self, readings: Sequence[ReadText]) -> SparseRows:
        """Return the weighted n-grams of many texts."""
        found = [self.row(reading) for reading in readings]
        indptr = np.cumsum([0, *(len(columns) for columns, _ in found)])
        columns = np.concatenate([np.zeros(0, dtype=np.int64), *(each for each, _ in found)])
        values = np.concatenate([np.zeros(0), *(each for _, each in found)])
        return SparseRows(indptr, columns, values, len(self.buckets))
