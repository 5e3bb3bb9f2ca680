"""The row of the edge's benchmark that is about a stream far longer than its window."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import edge_sides as sides
from benchmarks.edge_model import random_model
from edge.device.cpu_load import Disturbance
from edge.llama.context import Context, ContextParams
from edge.llama.kv_cache import KvCache
from edge.llama.kv_types import F16, CacheShape, KvTypes
from edge.llama.native_handles import Model
from edge.llama.sampler import ConfidenceGauge, Sampler
from engine.window import Pins, Window
from offload.messages import Delta, Finish, Request, Sampling
from offload.pair import EDGE_MODEL

Row = dict[str, Any]
SHARED = Path(__file__).parents[2] / "shared" / "models"


def stream(quick: bool) -> Row:
    """A stream of ten windows: the same passage judged at its start and at its end."""
    trained = SHARED / "stories3M" / "stories3M-f32.gguf"
    path = trained if trained.exists() else EDGE_MODEL
    first, last, whole = _drift(path, window=64 if quick else 192)
    watch = Disturbance()
    windows = _written(3 if quick else 10)
    busy = watch.busy_cores()
    rates = [each.rate() for each in windows]
    return {
        "ratio": last / first,
        "ours": last,
        "theirs": first,
        "unit": f"perplexity of one passage in the last and the first window, {path.stem}",
        "perplexity_without_a_window": whole,
        "windows_loss": first / whole - 1,
        "tokens_per_s": [each.num_steps / each.wall_s for each in windows],
        "tokens_per_cpu_s": rates,
        "tokens_per_s_change": rates[-1] / rates[0] - 1,
        "tokens_per_s_change_once_full": rates[-1] / rates[1] - 1,
        "step_s": [each.step_s() for each in windows],
        "forgetting_s": [each.forgetting_s() for each in windows],
        "others_busy_cores": round(busy, 2),
        "num_threads": 1,
        **_memory([each.memory for each in windows]),
    }


def _memory(sizes: Sequence[dict[str, int]]) -> Row:
    """Return what the process held at the end of each window, and how that changed.

    Weights that are mapped from their file count as resident once they are read, and are no
    memory that was asked for: what a stream could use up is anonymous.
    """
    rows: Row = {f"{name}_bytes": [each[name] for each in sizes] for name in sizes[0]}
    for name in sizes[0]:
        rows[f"{name}_growth"] = sizes[-1][name] / sizes[0][name] - 1
        rows[f"{name}_growth_bytes"] = sizes[-1][name] - sizes[0][name]
    return rows


def _held() -> dict[str, int]:
    """Return the process's bytes, from the kernel's sum over its mappings."""
    names = {"Rss": "resident", "Anonymous": "anonymous", "Private_Dirty": "private_dirty"}
    rows = (line.split() for line in Path("/proc/self/smaps_rollup").read_text().splitlines())
    found = {row[0].rstrip(":"): int(row[1]) for row in rows if row[-1] == "kB"}
    return {told: found[name] * 1024 for name, told in names.items()}


WINDOW = 128  # tokens


@dataclass(kw_only=True)
class Written:
    """One window of a stream: its steps, and those that first forgot a block.

    In seconds of the processor in the one thread that computes: what neighbours take is no part
    of what a full window costs. `wall_s` is by the clock.
    """

    plain: list[float] = field(default_factory=list)
    forgetting: list[float] = field(default_factory=list)
    wall_s: float = 0.0
    memory: dict[str, int] = field(default_factory=dict)

    @property
    def num_steps(self) -> int:
        return len(self.plain) + len(self.forgetting)

    def step_s(self) -> float:
        return float(np.median(self.plain))

    def forgetting_s(self) -> float:
        """Return what it adds to a step to forget a block; 0 where none was forgotten."""
        return float(np.median(self.forgetting)) - self.step_s() if self.forgetting else 0.0

    def rate(self) -> float:
        """Return tokens per second of the processor."""
        return self.num_steps / (sum(self.plain) + sum(self.forgetting))


def _written(num_windows: int) -> list[Written]:
    """Write a stream of windows in one thread: neighbours disturb it least, and no governor."""
    ours = sides.engine(
        random_model(),
        max_model_len=WINDOW,
        window=WINDOW - 4,
        kv_cache_dtype="q8_0",
        num_threads=1,
    )
    window = ours.slots.all[0].cache.window
    asked = Sampling(max_tokens=WINDOW * num_windows)
    found, dropped, then, wall = [Written()], 0, 0.0, 0.0
    for item in ours.answer(Request(prompt="Once upon a time", sampling=asked)):
        now = time.thread_time()
        if then and isinstance(item, Delta):
            kind = found[-1].plain if window.dropped == dropped else found[-1].forgetting
            kind.append(now - then)
            found[-1].wall_s += time.perf_counter() - wall
        dropped = window.dropped
        if isinstance(item, Finish):
            found[-1].memory = _held()
        elif found[-1].num_steps == WINDOW:
            found[-1].memory = _held()
            found.append(Written())
        then, wall = time.thread_time(), time.perf_counter()
    ours.close()
    assert len(found) == num_windows, "the model ended its stream early"
    return found


def _drift(path: Path, *, window: int) -> tuple[float, float, float]:
    """Return a passage's perplexity in the second window, in the tenth, and with all before it.

    The stream is lead, passage, others, lead, passage, each lead and passage one window long, so
    that both times the passage is judged by the same tokens: the sinks and its lead.
    """
    with Model(path) as model:
        start, body = _texts(model, window)
        lead, passage, *others = body
        tokens = [*start, *lead, *passage, *(t for text in others for t in text)]
        again = len(tokens) + len(lead)
        tokens += [*lead, *passage]
        losses = _losses(model, tokens, capacity=window + len(start), num_sinks=len(start))
        whole = _losses(model, [*start, *lead, *passage], capacity=3 * window, num_sinks=len(start))
        at = len(start) + len(lead)
    spans = (losses[at : at + window], losses[again : again + window], whole[at:])
    return tuple(math.exp(float(np.mean(span))) for span in spans)  # type: ignore[return-value]


def _texts(model: Model, window: int) -> tuple[list[int], list[list[int]]]:
    """Return what begins a text, and eight texts of a window, written by the model itself."""
    vocabulary = model.vocabulary
    start = vocabulary.tokenize("Once upon a time", add_special=True)[:4]
    texts = []
    for seed in range(8):
        sampling = Sampling(temperature=0.9, seed=seed)
        params = ContextParams(num_tokens=window + 8, num_threads=1, kv_types=F16)
        gauge = ConfidenceGauge(vocabulary.num_tokens)
        with Context(model, params) as context, Sampler(sampling, vocabulary, gauge) as sampler:
            tokens = list(start)
            context.decode(tokens, 0)
            while len(tokens) < len(start) + window:
                token, _ = sampler.next(context.logits())
                context.decode([token], len(tokens))
                tokens.append(token)
        texts.append(tokens[len(start) :])
    return start, texts


def _losses(model: Model, tokens: Sequence[int], *, capacity: int, num_sinks: int) -> list[float]:
    """Return the loss of each token, in nats, given what the window then holds; the first has 0."""
    kinds = KvTypes.parse("q8_0")
    if not CacheShape.of(model).slides(kinds):
        kinds = F16
    params = ContextParams(num_tokens=capacity, num_threads=1, kv_types=kinds)
    losses = [0.0]
    with Context(model, params) as context:
        window = Window(capacity, num_sinks=num_sinks, block=16)
        cache = KvCache(context, window, sliding=True, reuse=False)
        pins = Pins(num_first=0, last_start=0, last_end=0)
        for token, target in itertools.pairwise(tokens):
            cache.append([token], pins)
            row = cache.logits(0).astype(np.float64)
            row -= row.max()
            losses.append(float(np.log(np.exp(row).sum()) - row[target]))
    return losses
