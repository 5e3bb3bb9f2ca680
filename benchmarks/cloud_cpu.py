"""The rows of benchmarks/cloud.py that need no GPU; both sides of each in one run."""

from __future__ import annotations

import asyncio
import contextlib
import io
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import torch

from benchmarks.cloud_load import jobs_of, words
from benchmarks.cloud_memory import memory
from benchmarks.cloud_models import BenchModel
from benchmarks.cloud_sides import Job, Theirs, our_engine, ours, ours_together
from benchmarks.cloud_switches import response_cache, short_first, target_step
from cloud.engine.engine import CloudEngine

Row = dict[str, Any]
_FIXED_BATCH = 8


async def batch_one(model: BenchModel, *, quick: bool) -> Row:
    """One answer at a time, beside transformers.generate."""
    jobs = jobs_of(2 if quick else 4, (24, 24), (96, 96), seed=1)
    theirs = await asyncio.to_thread(_load, model)
    async with (
        our_engine(model.folder, device="cpu") as engine,
        our_engine(model.folder, device="cpu", num_speculative_tokens=0) as undrafted,
    ):
        rates = await _in_turn(
            {
                "ours": lambda: _each(engine, jobs),
                "ours without drafts": lambda: _each(undrafted, jobs),
                "transformers.generate": lambda: _threaded(
                    lambda: [theirs.one(job) for job in jobs]
                ),
            },
            rounds=2 if quick else 4,
            is_real=model.is_real,
        )
    row = _row(model, rates, against="transformers.generate", goal=1.3)
    row |= {"types": {"ours": undrafted.choice.way.dtype, "transformers": str(theirs.model.dtype)}}
    speeds = rates["tokens_per_s"]
    # Random weights repeat themselves, which flatters drafts; people's questions do so less.
    plain = speeds["ours without drafts"] / speeds["transformers.generate"]
    return {**row, "ratio_without_drafts": round(plain, 2)}


async def mixed(model: BenchModel, *, quick: bool) -> Row:
    """Sixteen requests of mixed length at once, beside the better of transformers' two ways."""
    jobs = jobs_of(16, (8, 90), (16, 128), seed=2)
    theirs = await asyncio.to_thread(_load, model)
    num_tokens = sum(job.num_tokens + 8 * len(job.prompt.split()) for job in jobs)
    # Their manager runs a thread of its own for as long as it is open: it is opened apart.
    async with our_engine(model.folder, device="cpu") as engine:
        rates = await _in_turn(
            {
                "ours": lambda: _together(engine, jobs),
                "padded generate": lambda: _threaded(lambda: theirs.padded(jobs)),
            },
            rounds=2 if quick else 3,
            is_real=model.is_real,
        )
        ours_in = engine.choice.way.dtype
    with theirs.continuous(num_tokens) as batched:
        more = await _in_turn(
            {"generate_batch": lambda: _threaded(lambda: batched(jobs))},
            rounds=1 if quick else 3,
            expected=rates["made"],
            is_real=model.is_real,
        )
    rates["tokens_per_s"] |= more["tokens_per_s"]
    speeds = rates["tokens_per_s"]
    better = max(("padded generate", "generate_batch"), key=lambda name: float(speeds[name]))
    row = _row(model, rates, against=better, goal=1.8 if model.is_real else 1.5)
    return row | {"types": {"ours": ours_in, "transformers": str(theirs.model.dtype)}}


async def poisson(model: BenchModel, *, quick: bool) -> Row:
    """Requests that come at random, beside fixed batches of eight in the same engine."""
    jobs = jobs_of(16 if quick else 32, (8, 60), (8, 128), seed=3)
    chance = random.Random(4)
    async with our_engine(model.folder, device="cpu", enable_prefix_caching=False) as engine:
        began = time.perf_counter()
        await _fixed_batches(engine, jobs, [0.0] * len(jobs))
        fixed_s = time.perf_counter() - began
        # Four fifths of what fixed batches can bear, so that both sides keep up.
        rate_per_s = 0.8 * len(jobs) / fixed_s
        at, arrivals = 0.0, []
        for _ in jobs:
            at += chance.expovariate(rate_per_s)
            arrivals.append(at)
        fixed, continuous, ratios = [], [], []
        for _ in range(1 if quick else 5):  # in turns, so that a neighbour disturbs both
            fixed += await _fixed_batches(engine, jobs, arrivals)
            continuous += await _continuous(engine, jobs, arrivals)
            began = time.perf_counter()
            await _fixed_batches(engine, jobs, [0.0] * len(jobs))
            between = time.perf_counter()
            await ours_together(engine, jobs)
            ratios.append((between - began) / (time.perf_counter() - between))
    less, ratio = (
        1 - statistics.mean(continuous) / statistics.mean(fixed),
        statistics.median(ratios),
    )
    return {
        "model": model.name,
        "less_mean_latency": round(less, 3),
        "goal": "0.4 less mean latency at equal load, or 3 times the throughput",
        "met": less >= 0.4 or ratio >= 3,
        "throughput_ratio": round(ratio, 2),
        "requests_per_s": round(rate_per_s, 2),
        "mean_latency_s": {
            "continuous": round(statistics.mean(continuous), 3),
            f"fixed batches of {_FIXED_BATCH}": round(statistics.mean(fixed), 3),
        },
    }


async def prefix(model: BenchModel, *, quick: bool) -> Row:
    """The first token after a long prefix that was seen before, beside the cache turned off."""
    chance = random.Random(5)
    num_prefix = 512 if model.name.startswith("random") else 440
    shared = words(num_prefix, chance)  # at least a token a word
    first_s: dict[str, list[float]] = {"on": [], "off": []}
    num_tokens = 0
    async with (
        our_engine(model.folder, device="cpu") as on,
        our_engine(model.folder, device="cpu", enable_prefix_caching=False) as off,
    ):
        shared, num_tokens = _cut(on, shared, num_prefix)
        for engine in (on, off):
            await ours(engine, Job(shared, 1))
        for _ in range(3 if quick else 8):
            job = Job(shared + " " + words(8, chance), 1)
            first_s["off"].append((await ours(off, job)).first_s)
            first_s["on"].append((await ours(on, job)).first_s)
    on_s, off_s = statistics.median(first_s["on"]), statistics.median(first_s["off"])
    return {
        "model": model.name,
        "ratio": round(off_s / on_s, 2),
        "goal": 5,
        "met": off_s / on_s >= 5,
        "prefix_tokens": num_tokens,
        "first_token_s": {"cache on": round(on_s, 4), "cache off": round(off_s, 4)},
    }


async def greedy(model: BenchModel, *, quick: bool) -> Row:
    """Greedy tokens behind 40 passages of a text, both sides in float32, one by one."""
    words_of = model.text.split()
    step = len(words_of) // 40
    prompts = [" ".join(words_of[at * step : at * step + 40]) for at in range(8 if quick else 40)]
    with contextlib.redirect_stderr(io.StringIO()):
        theirs = await asyncio.to_thread(Theirs, model.folder, "cpu", torch.float32)
    margins = []
    async with our_engine(model.folder, device="cpu", dtype="float32") as engine:
        for prompt in prompts:
            job = Job(prompt, 32)
            found = (await ours(engine, job)).tokens
            expected = await asyncio.to_thread(theirs.one, job)
            if found != expected:
                margins.append(theirs.margin(job, expected, found))
    return {
        "model": model.name,
        "same": len(prompts) - len(margins),
        "of": len(prompts),
        "tokens_each": 32,
        "margins_of_others_nats": [round(each, 6) for each in margins],
        "met": not margins,
    }


CPU_ROWS: dict[str, Callable[..., Awaitable[Row]]] = {
    "batch-1": batch_one,
    "mixed-16": mixed,
    "poisson": poisson,
    "prefix": prefix,
    "short-first": short_first,
    "target-step": target_step,
    "response-cache": response_cache,
    "memory": memory,
    "greedy-40": greedy,
}


def _cut(engine: CloudEngine, text: str, num_tokens: int) -> tuple[str, int]:
    """Return the beginning of a text that has at most so many tokens, whole words only."""
    parts = text.split()
    count = len(engine.tokenize(text))
    while count > num_tokens:
        parts = parts[: max(1, len(parts) * num_tokens // count)]
        count = len(engine.tokenize(" ".join(parts)))
    return " ".join(parts), count


def _load(model: BenchModel) -> Theirs:
    """Return transformers' side, in the quickest of the types that it may have."""
    with contextlib.redirect_stderr(io.StringIO()):  # its progress bars
        sides = [Theirs(model.folder, "cpu", dtype) for dtype in model.dtypes]
    job = Job("the cat sat on the mat", 8)

    def took_s(side: Theirs) -> float:
        side.one(job)
        began = time.process_time()
        side.one(job)
        return time.process_time() - began

    return min(sides, key=took_s) if len(sides) > 1 else sides[0]


async def _threaded(work: Callable[[], list[tuple[int, ...]]]) -> list[tuple[int, ...]]:
    return await asyncio.to_thread(work)


async def _each(engine: CloudEngine, jobs: Sequence[Job]) -> list[tuple[int, ...]]:
    return [(await ours(engine, job)).tokens for job in jobs]


async def _together(engine: CloudEngine, jobs: Sequence[Job]) -> list[tuple[int, ...]]:
    return [told.tokens for told in await ours_together(engine, jobs)]


async def _in_turn(
    sides: dict[str, Callable[[], Awaitable[list[tuple[int, ...]]]]],
    *,
    rounds: int,
    expected: list[tuple[int, ...]] | None = None,
    is_real: bool = False,
) -> dict[str, Any]:
    """Run the sides alternately after a round that is not counted; all must say the same.

    Of real weights types may differ, and the processor's time counts: only lengths must agree.
    """
    made, clock = expected, time.process_time if is_real else time.perf_counter
    for run in sides.values():
        told = await run()
        made = made or told
        same = sum(a == b for a, b in zip(told, made, strict=True))
        if is_real:
            assert list(map(len, told)) == list(map(len, made)), "an answer ended early"
        else:
            assert same >= 0.9 * len(made), f"the sides agree on {same} of {len(made)} answers"
    assert made is not None, "at least one side runs"
    num_tokens = sum(map(len, made))
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, run in sides.items():
            began = clock()
            await run()
            seconds[name].append(clock() - began)
    speeds = {name: num_tokens / statistics.median(each) for name, each in seconds.items()}
    return {"made": made, "tokens_per_s": speeds}


def _row(model: BenchModel, rates: dict[str, Any], *, against: str, goal: float) -> Row:
    speeds = rates["tokens_per_s"]
    ratio = speeds["ours"] / speeds[against]
    return {
        "model": model.name,
        "ratio": round(ratio, 2),
        "goal": goal,
        "met": ratio >= goal,
        "against": against,
        "tokens_per_s": {name: round(speed, 1) for name, speed in speeds.items()},
    }


async def _continuous(
    engine: CloudEngine, jobs: Sequence[Job], arrivals: Sequence[float]
) -> list[float]:
    """Return each job's seconds from arrival to end, every one sent as it comes."""

    async def one(job: Job, at: float) -> float:
        await asyncio.sleep(at)
        return (await ours(engine, job)).last_s

    return await asyncio.gather(*map(one, jobs, arrivals))


async def _fixed_batches(
    engine: CloudEngine, jobs: Sequence[Job], arrivals: Sequence[float]
) -> list[float]:
    """The same, eight at a time: nobody starts before all are there and the last batch is done."""
    began = time.perf_counter()
    latencies: list[float] = []
    for first in range(0, len(jobs), _FIXED_BATCH):
        batch = slice(first, first + _FIXED_BATCH)
        wait_s = arrivals[batch][-1] - (time.perf_counter() - began)
        await asyncio.sleep(max(0.0, wait_s))
        started_s = time.perf_counter() - began
        told = await ours_together(engine, jobs[batch])
        # Each answer is read when it is done, though its place stays empty until all are.
        ends_s = [started_s + one.last_s for one in told]
        latencies += [end_s - at for end_s, at in zip(ends_s, arrivals[batch], strict=True)]
    return latencies
