"""The row of the edge's benchmark that is about reading a prompt into a cache of fewer bits."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.edge_model import random_model
from edge.llama.context import Context, ContextParams
from edge.llama.kv_types import KvTypes
from edge.llama.native_handles import Model

Row = dict[str, Any]
SEED, CHUNK, NUM_WRITTEN = 1, 512, 24
# Keys and values, whether flash attention computes with them, and the tokens of a batch.
WAYS = {
    "f16": ("f16", True, CHUNK),
    "q8_0": ("q8_0", True, CHUNK),
    "q8_0 in batches of 64": ("q8_0", True, 64),
    "keys q8_0, values f16": ("q8_0/f16", True, CHUNK),
    "keys q8_0, values f16, no flash attention": ("q8_0/f16", False, CHUNK),
    "f16, no flash attention": ("f16", False, CHUNK),
}


def reading(quick: bool) -> Row:
    """A prompt read, and a little written behind it, with keys and values of each kind.

    In seconds of the processor in the one thread that computes, which neighbours disturb least.
    """
    num_tokens = CHUNK if quick else 3 * CHUNK
    tokens = np.random.default_rng(SEED).integers(300, 800, num_tokens).tolist()
    table: dict[str, Row] = {}
    with Model(random_model()) as model:
        for name, (kinds, flash, batch) in WAYS.items():
            params = ContextParams(
                num_tokens=num_tokens + 64,
                kv_types=KvTypes.parse(kinds),
                flash_attention=flash,
                batch_size=batch,
            )
            with Context(model, params) as context:
                table[name] = _timed(context, tokens, batch)
    ours, theirs = table["q8_0"], table["f16"]
    return {
        "ratio": ours["prompt_tokens_per_s"] / theirs["prompt_tokens_per_s"],
        "ours": ours["prompt_tokens_per_s"],
        "theirs": theirs["prompt_tokens_per_s"],
        "unit": f"tokens of a prompt of {num_tokens} per second of one core",
        "ways": table,
        "cause": "flash attention on a CPU takes keys and values in tiles where they are f16 or "
        "f32, else row by row for each query: ggml-org/llama.cpp#26948",
    }


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
        "prompt_tokens_per_s": len(tokens) / sum(chunks),
        "of_each_512": [CHUNK / seconds for seconds in chunks],
        "answer_tokens_per_s": NUM_WRITTEN / (time.thread_time() - started),
    }
