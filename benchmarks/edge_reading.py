"""Rows of the edge's benchmark that are about reading a prompt into a cache of fewer bits."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.edge_model import find, random_model
from edge.llama.context import Context, ContextParams
from edge.llama.kv_types import KvTypes
from edge.llama.native_handles import Model

Row = dict[str, Any]
SEED, CHUNK, NUM_WRITTEN = 1, 512, 24
READ, WRITTEN = "prompt_tokens_per_s", "answer_tokens_per_s"
# Keys and values, whether flash attention computes with them, and the tokens of a batch.
WAYS = {
    "f16": ("f16", True, CHUNK),
    "q8_0": ("q8_0", True, CHUNK),
    "q8_0 in batches of 64": ("q8_0", True, 64),
    "keys q8_0, values f16": ("q8_0/f16", True, CHUNK),
    "keys q8_0, values f16, no flash attention": ("q8_0/f16", False, CHUNK),
    "f16, no flash attention": ("f16", False, CHUNK),
}
# What `auto` takes where memory is long, the first that it takes where it is short, and the next.
# Of a model with uneven keys, as this one is before quantize smooth-keys, it takes q8_0 values
# first: they lose less there, and are read as slowly as q8_0.
OFFERED = {"f16": ("f16", False), "q8_0/f16": ("q8_0/f16", False), "q8_0": ("q8_0", True)}


def reading(quick: bool) -> Row:
    """A prompt read, and a little written behind it, with keys and values of each kind.

    In seconds of the processor in the one thread that computes, which neighbours disturb least.
    """
    num_tokens = CHUNK if quick else 3 * CHUNK
    table = _table(random_model(), num_tokens, WAYS)
    ours, theirs = table["q8_0"][READ], table["f16"][READ]
    return {
        "ratio": ours / theirs,
        "ours": ours,
        "theirs": theirs,
        "unit": f"tokens of a prompt of {num_tokens} per second of one core",
        "ways": table,
        "cause": "flash attention on a CPU takes keys and values in tiles where they are f16 or "
        "f32, else row by row for each query: ggml-org/llama.cpp#26948",
    }


def compressed(folder: Path, quick: bool) -> Row:
    """The same on a real model, with the types that `auto` takes; the worse ratio counts."""
    num_tokens = CHUNK if quick else 4 * CHUNK
    ways = {name: (kinds, flash, CHUNK) for name, (kinds, flash) in OFFERED.items()}
    table = _table(find(folder, "0.5b"), num_tokens, ways)
    for row in table.values():
        row["ratios"] = [row[what] / table["f16"][what] for what in (READ, WRITTEN)]
    what = min((READ, WRITTEN), key=lambda what: table["q8_0/f16"][what] / table["f16"][what])
    ours, theirs = table["q8_0/f16"][what], table["f16"][what]
    return {
        "ratio": ours / theirs,
        "ours": ours,
        "theirs": theirs,
        "unit": f"{what}, of {num_tokens} tokens, per second of one core",
        "ways": table,
    }


def _table(
    path: Path, num_tokens: int, ways: Mapping[str, tuple[str, bool, int]]
) -> dict[str, Row]:
    tokens = np.random.default_rng(SEED).integers(300, 800, num_tokens).tolist()
    table: dict[str, Row] = {}
    with Model(path) as model:
        for name, (kinds, flash, batch) in ways.items():
            params = ContextParams(
                num_tokens=num_tokens + 64,
                kv_types=KvTypes.parse(kinds),
                flash_attention=flash,
                batch_size=batch,
            )
            with Context(model, params) as context:
                table[name] = _timed(context, tokens, batch)
    return table


def _timed(context: Context, tokens: Sequence[int], batch: int) -> Row:
    chunks = []
    for first in range(0, len(tokens), CHUNK):
        started = time.thread_time()
        for at in range(first, first + CHUNK, batch):
            context.decode(tokens[at : at + batch], at)
        chunks.append(time.thread_time() - started)
    started = time.thread_time()
    for step in range(NUM_WRITTEN):
        context.decode(tokens[:1], len(tokens) + step)
    return {
        READ: len(tokens) / sum(chunks),
        "of_each_512": [CHUNK / seconds for seconds in chunks],
        WRITTEN: NUM_WRITTEN / (time.thread_time() - started),
    }
