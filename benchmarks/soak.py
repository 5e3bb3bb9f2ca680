"""A long run at 70% load with churn, faults and scaling: memory, files, threads and latency.

    python -m benchmarks.soak --legs 4 --minutes 30        resumed where it stopped, leg by leg

Each leg starts `nearfar cloud serve` anew with one to two replicas and measures how much it can
bear. Then questions come by chance at 70% of that; every tenth client hangs up in the middle, a
replica is killed with -9 now and then, and between the faults nobody asks for a while, so that one
replica drains. A leg that has ended is kept in the JSON at once.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from cloud.bench.report import percentile
from cloud.bench.trial import RequestTrial, ask

ROOT = Path(__file__).resolve().parents[1]
LOAD, HANG_UP, NUM_TOKENS = 0.7, 0.1, 48
_LOOK_S, _CALIBRATE_S, _AT_ONCE = 15.0, 20.0, 32
_FAULT_EVERY_S, _QUIET_EVERY_S, _QUIET_S = 300.0, 600.0, 60.0
_DOWNSCALE_S, _REST_S = 20.0, 30.0
FLAGS = (
    *("--min-replicas", "1", "--max-replicas", "2", "--scale-by", "queue", "--scale-target", "8"),
    *("--upscale-delay", "5", "--downscale-delay", str(_DOWNSCALE_S)),
)


@dataclass
class Watched:
    """What one leg has seen."""

    trials: list[tuple[float, RequestTrial]] = field(default_factory=list)
    num_hung_up: int = 0
    num_killed: int = 0
    looks: list[dict[str, float]] = field(default_factory=list)


@contextlib.contextmanager
def endpoint(home: str) -> Iterator[tuple[str, psutil.Process]]:
    """Serve while the block lasts; yield the base URL and the process."""
    command = [sys.executable, "-m", "nearfar", "cloud", "serve", "--json", *FLAGS]
    command += ["--bind", "tcp://127.0.0.1:*", "--http", "127.0.0.1:0"]
    own = {**os.environ, "NEARFAR_HOME": home, "OMP_NUM_THREADS": "1"}
    with open(Path(home) / "log", "w", encoding="utf-8") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, env=own, stdout=subprocess.PIPE, stderr=log, text=True
        )
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())["url"], psutil.Process(process.pid)
        finally:
            process.terminate()
            process.wait(60)


def look(process: psutil.Process, at_s: float) -> dict[str, float]:
    """Return what the front and its replicas hold now."""
    replicas = [each for each in process.children() if "replica_main" in " ".join(each.cmdline())]
    rss = [each.memory_info().rss / 2**20 for each in replicas]
    return {
        "at_s": round(at_s, 1),
        "rss_mb": round(process.memory_info().rss / 2**20, 1),
        "files": process.num_fds(),
        "threads": process.num_threads(),
        "replicas": len(replicas),
        "replica_rss_mb": round(max(rss, default=0.0), 1),
    }


async def _question(client: httpx.AsyncClient, url: str, number: int) -> RequestTrial:
    turns = [{"role": "user", "content": f"What is {number} + 17?"}]
    body: dict[str, object] = {"model": "auto", "messages": turns, "max_tokens": NUM_TOKENS}
    body |= {"temperature": 0, "stream": True}
    return await ask(client, f"{url}/chat/completions", body, timeout_s=120)


async def _capacity(client: httpx.AsyncClient, url: str) -> float:
    """Return how many questions a second are answered while there are always more."""
    until_s, count = time.monotonic() + _CALIBRATE_S, 0

    async def keep_asking(first: int) -> int:
        number = first
        while time.monotonic() < until_s:
            await _question(client, url, number)
            number += _AT_ONCE
        return (number - first) // _AT_ONCE

    began_s = time.monotonic()
    count = sum(await asyncio.gather(*(keep_asking(-1000 - n) for n in range(_AT_ONCE))))
    return count / (time.monotonic() - began_s)


async def _hang_up(client: httpx.AsyncClient, url: str, number: int) -> None:
    """Ask for a long answer and leave at its first word."""
    body = {"model": "auto", "prompt": f"Count from {number}:", "stream": True}
    with contextlib.suppress(httpx.HTTPError):
        async with client.stream(
            "POST", f"{url}/completions", json={**body, "max_tokens": 400}, timeout=60
        ) as reply:
            async for _ in reply.aiter_lines():
                break


async def _come(
    client: httpx.AsyncClient, url: str, per_s: float, began_s: float, end_s: float, seen: Watched
) -> None:
    """Let clients come by chance until the end, less in the quiet minutes."""
    draw, number, asking = random.Random(7), 0, set[asyncio.Task[None]]()

    async def one(number: int) -> None:
        if draw.random() < HANG_UP:
            seen.num_hung_up += 1
            await _hang_up(client, url, number)
            return
        at_s = time.monotonic() - began_s
        seen.trials.append((at_s, await _question(client, url, number)))

    while (now_s := time.monotonic()) < end_s:
        if (now_s - began_s) % _QUIET_EVERY_S > _QUIET_EVERY_S - _QUIET_S:
            await asyncio.sleep(1.0)
            continue
        number += 1
        task = asyncio.create_task(one(number))
        asking.add(task)
        task.add_done_callback(asking.discard)
        await asyncio.sleep(draw.expovariate(per_s))
    await asyncio.gather(*asking)


async def _harm(process: psutil.Process, seen: Watched) -> None:
    """Kill a replica now and then."""
    while True:
        await asyncio.sleep(_FAULT_EVERY_S)
        for child in process.children():
            if "replica_main" in " ".join(child.cmdline()):
                child.kill()
                seen.num_killed += 1
                break


async def _keep_looking(process: psutil.Process, began_s: float, seen: Watched) -> None:
    while True:
        with contextlib.suppress(psutil.NoSuchProcess):
            seen.looks.append(look(process, time.monotonic() - began_s))
        await asyncio.sleep(_LOOK_S)


async def _run(url: str, process: psutil.Process, seconds: float) -> dict[str, Any]:
    limits, seen = httpx.Limits(max_connections=None, max_keepalive_connections=64), Watched()
    async with httpx.AsyncClient(limits=limits, trust_env=False) as client:
        capacity = await _capacity(client, url)
        before, began_s = look(process, 0.0), time.monotonic()
        cpu_before, load_before = process.cpu_times(), os.getloadavg()[0]
        beside = [
            asyncio.create_task(_keep_looking(process, began_s, seen)),
            asyncio.create_task(_harm(process, seen)),
        ]
        await _come(client, url, LOAD * capacity, began_s, began_s + seconds, seen)
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
        await asyncio.sleep(_REST_S + _DOWNSCALE_S)
        after, cpu = look(process, time.monotonic() - began_s), process.cpu_times()
    used_s = cpu.user + cpu.system - cpu_before.user - cpu_before.system
    return {
        "seconds": round(seconds),
        "capacity_per_s": round(capacity, 2),
        "asked_per_s": round(LOAD * capacity, 2),
        "front_cpu_share": round(used_s / seconds, 3),
        "load_average": [round(load_before, 1), round(os.getloadavg()[0], 1)],
        **summary(seen, before, after),
    }


def summary(seen: Watched, before: dict[str, float], after: dict[str, float]) -> dict[str, Any]:
    """Return a leg's figures: what became of the questions, and whether anything grew."""
    outcomes = Counter(
        "whole" if each.is_whole else (each.fault or str(each.status)) for _, each in seen.trials
    )
    return {
        "answers": dict(outcomes),
        "hung_up": seen.num_hung_up,
        "replicas_killed": seen.num_killed,
        "most_replicas": max((each["replicas"] for each in seen.looks), default=0),
        "at_rest": {"before": before, "after": after},
        "rss_mb_per_hour": round(slope(seen.looks, "rss_mb") * 3600, 1),
        "most": {
            name: max((each[name] for each in seen.looks), default=0)
            for name in ("rss_mb", "files", "threads", "replica_rss_mb")
        },
        "first_token_ms": {
            part: _percentiles(trials) for part, trials in _thirds(seen.trials).items()
        },
        "looks": seen.looks[:: max(1, len(seen.looks) // 40)],
    }


def slope(looks: Sequence[dict[str, float]], name: str) -> float:
    """Return by how much a figure grows in a second, by least squares over the second half."""
    half = looks[len(looks) // 2 :]
    if len(half) < 3:
        return 0.0
    fit = statistics.linear_regression([x["at_s"] for x in half], [x[name] for x in half])
    return fit.slope


def _thirds(trials: list[tuple[float, RequestTrial]]) -> dict[str, list[RequestTrial]]:
    ordered = [trial for _, trial in sorted(trials, key=lambda each: each[0])]
    count = len(ordered) // 3
    parts = {"first": ordered[:count], "middle": ordered[count : 2 * count]}
    return parts | {"last": ordered[2 * count :]}


def _percentiles(trials: Sequence[RequestTrial]) -> dict[str, float]:
    told = [1000 * each.ttft_s for each in trials if each.ttft_s is not None]
    return {f"p{at}": round(percentile(told, at), 1) for at in (50, 99)} if told else {}


def main() -> None:
    """Run the legs that are missing; each is written when it has ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--legs", type=int, default=4)
    parser.add_argument("--minutes", type=float, default=30.0)
    chosen = parser.parse_args()
    kept = json.loads(chosen.json.read_text("utf-8")) if chosen.json.exists() else {"legs": []}
    document = {"machine": f"{platform.machine()}, {os.cpu_count()} CPUs", **kept}
    while len(document["legs"]) < chosen.legs:
        with tempfile.TemporaryDirectory() as home, endpoint(home) as (url, process):
            leg = asyncio.run(_run(url, process, 60 * chosen.minutes))
        document["legs"].append(leg)
        chosen.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        print(json.dumps({k: v for k, v in leg.items() if k != "looks"}), flush=True)


if __name__ == "__main__":
    main()
