"""Rows of the edge's benchmark on a real model that are about several answers at once."""

from __future__ import annotations

import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import edge_sides as sides
from benchmarks.edge_model import find
from edge.device.cpu_load import num_usable_cores
from edge.llama.context import BatchPart, Context, ContextParams
from edge.llama.native_handles import Model
from edge.llama.runtime import LlamaEngine
from edge.llama.sampler import ConfidenceGauge, Sampler
from offload.messages import Delta, Message, Request, Sampling

Row = dict[str, Any]
COUNT = "Write the numbers from 1 to 1000 in words, separated by commas, beginning with {}."
ALL_FOUR = {"temperature": 0.8, "top_p": 0.95, "min_p": 0.05, "repetition_penalty": 1.1, "seed": 1}


def at_once(folder: Path, quick: bool) -> Row:
    """2, 4 and 8 answers at once, in lanes beside one another or not, beside plain llama.cpp."""
    path, num_tokens, rounds = find(folder, "0.5b"), 12 if quick else 80, 1 if quick else 3
    ours = LlamaEngine(path, options=sides.options(max_num_seqs=8, max_model_len=1024))
    theirs = _Plain(path, num_seqs=8)
    table = {}
    for name, num, lanes, sampling in (
        ("2", 2, None, {}),
        ("4", 4, None, {}),
        ("8", 8, None, {}),
        ("2, gaps between their lanes", 2, (0, 4), {}),
        ("4, gaps between their lanes", 4, (0, 2, 4, 6), {}),
        ("4, with temperature, top_p, min_p and a penalty", 4, None, ALL_FOUR),
    ):
        our_rate, their_rate = sides.by_turns(
            rounds,
            lambda n=num, at=lanes, s=sampling: written_at_once(ours, n, num_tokens, at, s),  # type: ignore[misc]
            lambda n=num: theirs.rate(n, num_tokens),  # type: ignore[misc]
        )
        table[name] = {"ratio": our_rate / their_rate, "ours": our_rate, "theirs": their_rate}
    ours.close()
    theirs.close()
    worst = min(table.values(), key=lambda row: row["ratio"])
    return {**worst, "unit": "tokens/s of all answers", "answers": table}


def written_at_once(
    engine: LlamaEngine,
    num_answers: int,
    num_tokens: int,
    lanes: tuple[int, ...] | None,
    sampling: dict[str, Any],
) -> float:
    """Return tokens per second of all while all write; `lanes` are those that go on writing."""
    wanted = lanes or range(num_answers)

    def answer(number: int) -> list[float]:
        asked = Sampling(max_tokens=num_tokens if number in wanted else 1, **sampling)
        message = Message(role="user", content=COUNT.format(number + 3))
        items = engine.answer(Request(messages=(message,), sampling=asked))
        return [time.perf_counter() for item in items if isinstance(item, Delta) and item.token_ids]

    num_seats = 8 if lanes else num_answers
    with ThreadPoolExecutor(num_seats) as pool:
        found = list(pool.map(answer, range(num_seats)))
    times = [found[number] for number in wanted]
    # While all of them write: from the last first token to the first last one.
    start, end = max(each[0] for each in times), min(each[-1] for each in times)
    assert start < end, "one answer ended before another began"
    return sum(sum(start < at <= end for at in each) for each in times) / (end - start)


class _Plain:
    """llama.cpp's own batches in the order of their sequences, and the likeliest of each row."""

    def __init__(self, path: Path, *, num_seqs: int) -> None:
        self._model = Model(path)
        threads = num_usable_cores()
        params = _Apart(
            num_tokens=1024, num_seqs=num_seqs, num_threads=threads, num_outputs=16, batch_size=512
        )
        self._context = Context(self._model, params)

    def rate(self, num_seqs: int, num_steps: int) -> float:
        """Return tokens per second of all sequences."""
        for seq in range(num_seqs):
            self._context.clear(seq)
            tokens = np.random.default_rng(seq).integers(0, 1000, 32).tolist()
            self._context.decode_parts([BatchPart(tokens=tokens, position=0, seq=seq)])
        newest = [5] * num_seqs
        started = time.perf_counter()
        for step in range(num_steps):
            parts = [
                BatchPart(tokens=[token], position=32 + step, seq=seq)
                for seq, token in enumerate(newest)
            ]
            self._context.decode_parts(parts)
            newest = [int(self._context.logits(part.first_row).argmax()) for part in parts]
        return num_seqs * num_steps / (time.perf_counter() - started)

    def close(self) -> None:
        """Free everything."""
        self._context.close()
        self._model.close()


class _Apart(ContextParams):
    """A cache of its own for each sequence, as llama.cpp has by default."""

    def to_llama(self) -> Any:
        params = super().to_llama()
        params.kv_unified = False
        return params


def choosing(folder: Path, quick: bool) -> Row:
    """What choosing a token takes of a step, with its confidence over the whole vocabulary."""
    path, num_steps = find(folder, "0.5b"), 6 if quick else 30
    ways = {"greedy": Sampling(), "temperature, top_p, min_p, penalty": Sampling(**ALL_FOUR)}
    table: dict[str, Row] = {}
    with Model(path) as model:
        params = ContextParams(
            num_tokens=512, num_seqs=8, num_threads=num_usable_cores(), num_outputs=16
        )
        size = model.vocabulary.num_tokens
        for num in (1, 2, 4, 8):
            for name, sampling in ways.items():
                with Context(model, params) as context:
                    samplers = [
                        Sampler(sampling, model.vocabulary, ConfidenceGauge(size))
                        for _ in range(num)
                    ]
                    shares = _shares_of_steps(context, samplers, num_steps)
                table[f"{num} at once, {name}"] = {"share": statistics.median(shares)}
    worst = max(row["share"] for row in table.values())
    greedy = max(row["share"] for name, row in table.items() if name.endswith("greedy"))
    return {
        "ratio": 1 - worst,
        "ours": worst,
        "theirs": 0.0,
        "unit": "share of a step that choosing takes, all answers together",
        "greedy": greedy,
        "ways": table,
    }


def _shares_of_steps(context: Context, samplers: list[Sampler], num_steps: int) -> list[float]:
    newest, shares = [5] * len(samplers), []
    for step in range(num_steps):
        started = time.perf_counter()
        parts = [
            BatchPart(tokens=[token], position=step, seq=seq) for seq, token in enumerate(newest)
        ]
        context.decode_parts(parts)
        decoded = time.perf_counter()
        newest = [
            sampler.next(context.logits(part.first_row))[0]
            for sampler, part in zip(samplers, parts, strict=True)
        ]
        chosen = time.perf_counter()
        shares.append((chosen - decoded) / (chosen - started))
    return shares
