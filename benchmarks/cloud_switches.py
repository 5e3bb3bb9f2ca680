"""The gain of the cloud engine's other switches: each on and off, on its own kind of load."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from typing import Any

from benchmarks.cloud_load import jobs_of, words
from benchmarks.cloud_models import BenchModel
from benchmarks.cloud_sides import Job, our_engine, ours, ours_together
from cloud.engine.engine import CloudEngine
from offload.messages import Delta, Request, Sampling

Row = dict[str, Any]
_PLACES = 4  # answers at once, so that the others wait
_TARGET_S = 0.02
_READERS: dict[str, Any] = {"enable_prefix_caching": False, "num_speculative_tokens": 0}


async def short_first(model: BenchModel, *, quick: bool) -> Row:
    """Short and long prompts that wait for few places: seconds to the end, in turn of arrival
    and the shortest first.
    """
    short = jobs_of(18, (4, 8), (8, 16), seed=6)
    jobs = [*short, *jobs_of(6, (80, 90), (96, 128), seed=7)]
    random.Random(8).shuffle(jobs)
    told: dict[str, list[float]] = {}
    for name, short_first_s in (("on", 2.0), ("off", 0.0)):
        async with our_engine(
            model.folder,
            device="cpu",
            max_num_seqs=_PLACES,
            enable_prefix_caching=False,
            short_first_s=short_first_s,
        ) as engine:
            for counted in (False, *[True] * (1 if quick else 3)):
                ends = [one.last_s for one in await ours_together(engine, jobs)]
                if counted:
                    told.setdefault(name, []).extend(ends)
    less = 1 - statistics.mean(told["on"]) / statistics.mean(told["off"])
    return {
        "model": model.name,
        "less_mean_latency": round(less, 3),
        "mean_latency_s": {name: round(statistics.mean(each), 3) for name, each in told.items()},
        "longest_latency_s": {name: round(max(each), 3) for name, each in told.items()},
    }


async def target_step(model: BenchModel, *, quick: bool) -> Row:
    """A reader's waits between tokens while others' long prompts come, with steps cut to a time
    and not.
    """
    gaps: dict[str, list[float]] = {"on": [], "off": []}
    prompts_s: dict[str, list[float]] = {"on": [], "off": []}
    async with (
        our_engine(model.folder, device="cpu", **_READERS, target_step_s=_TARGET_S) as on,
        our_engine(model.folder, device="cpu", **_READERS) as off,
    ):
        for counted in (False, *[True] * (2 if quick else 6)):
            for name, engine in (("on", on), ("off", off)):
                waits, prompt_s = await _read_beside_prompts(engine)
                if counted:
                    gaps[name] += waits
                    prompts_s[name] += prompt_s
    worst = {name: sorted(each)[int(0.99 * len(each))] for name, each in gaps.items()}
    return {
        "model": model.name,
        "less_99th_percentile_wait": round(1 - worst["on"] / worst["off"], 3),
        "target_step_s": _TARGET_S,
        "wait_between_tokens_99th_percentile_s": {k: round(v, 4) for k, v in worst.items()},
        "mean_first_token_of_long_prompts_s": {
            name: round(statistics.mean(each), 4) for name, each in prompts_s.items()
        },
    }


async def _read_beside_prompts(engine: CloudEngine) -> tuple[list[float], list[float]]:
    """Return the waits of one reader, and how long each of four prompts took to its first token."""
    chance = random.Random(9)
    others: list[asyncio.Task[Any]] = []
    waits: list[float] = []
    request = Request(prompt=words(8, chance), sampling=Sampling(max_tokens=120))
    last_s = 0.0
    async for item in engine.generate(request):
        if not isinstance(item, Delta) or not item.token_ids:
            continue
        now_s = time.perf_counter()
        if last_s:
            waits.append(now_s - last_s)
        last_s = now_s
        if item.index in (20, 21, 60, 61):
            others.append(asyncio.create_task(ours(engine, Job(words(150, chance), 1))))
    return waits, [(await one).first_s for one in others]


async def response_cache(model: BenchModel, *, quick: bool) -> Row:
    """The same greedy questions asked again, and others never asked before: what the cache saves
    and what it costs.
    """
    jobs = jobs_of(8, (8, 16), (24, 32), seed=10)
    again: dict[str, list[float]] = {"on": [], "off": []}
    fresh: dict[str, list[float]] = {"on": [], "off": []}
    chance = random.Random(11)
    async with (
        our_engine(model.folder, device="cpu", response_cache_size=64) as on,
        our_engine(model.folder, device="cpu") as off,
    ):
        for engine in (on, off):
            for job in jobs:
                await ours(engine, job)
        for _ in range(2 if quick else 4):
            for job in jobs:
                new = Job(words(12, chance), 24)
                for name, engine in (("on", on), ("off", off)):
                    again[name].append((await ours(engine, job)).last_s)
                    fresh[name].append((await ours(engine, new)).last_s)
    asked = {name: statistics.median(each) for name, each in again.items()}
    unasked = {name: statistics.median(each) for name, each in fresh.items()}
    return {
        "model": model.name,
        "ratio": round(asked["off"] / asked["on"], 1),
        "cost_of_a_miss": round(unasked["on"] / unasked["off"] - 1, 3),
        "latency_asked_again_s": {name: round(each, 5) for name, each in asked.items()},
        "latency_asked_first_s": {name: round(each, 5) for name, each in unasked.items()},
    }
