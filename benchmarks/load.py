"""The cloud endpoint under load: one user, 200 at once, long answers, a peak, overload; its memory.

    python -m benchmarks.load --only scenarios     all but the memory, in about two minutes
    python -m benchmarks.load                      with the memory's ten minutes

Starts `nearfar cloud serve --http` with the embedded model and one thread of torch, and asks it
through a real socket. The client is on the same cores.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.load_leaving import leaving
from benchmarks.load_memory import memory
from cloud.bench.load import run
from cloud.bench.load_options import LoadOptions
from cloud.bench.report import summarize

ROOT = Path(__file__).resolve().parents[1]
STEPS = (1, 10, 50, 100, 200)  # clients at once, as a peak comes
LONG = "Tell me all that you know, at length, about number {number}."


@contextlib.contextmanager
def endpoint(**environment: str) -> Iterator[tuple[str, psutil.Process]]:
    """Serve while the block lasts; yield the base URL and the process."""
    command = [sys.executable, "-m", "nearfar", "cloud", "serve", "--json"]
    command += ["--bind", "tcp://127.0.0.1:*", "--http", "127.0.0.1:0"]
    with tempfile.TemporaryDirectory() as home:
        own = {**os.environ, "NEARFAR_HOME": home, "OMP_NUM_THREADS": "1", **environment}
        process = subprocess.Popen(command, cwd=ROOT, env=own, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())["url"], psutil.Process(process.pid)
        finally:
            process.terminate()
            process.wait(30)


def load(url: str, **wish: Any) -> dict[str, Any]:
    """Run one scenario and return its report."""
    options = LoadOptions(base_url=url, model="nearfar-cloud", seed=1, **wish)
    return summarize(asyncio.run(run(options)), options)


def measure_memory(seconds: float) -> dict[str, Any]:
    """Run the scenario of memory alone."""
    with endpoint() as (url, process):
        return {"memory": memory(url, process, seconds), "left_running": left_running(url)}


def left_running(url: str) -> float:
    """Return how many answers the endpoint says that it still writes."""
    page = httpx.get(url.removesuffix("/v1") + "/metrics").text
    found = re.search(r"^nearfar:num_requests_running (\S+)$", page, re.MULTILINE)
    assert found is not None, "the endpoint tells how many answers run"
    return float(found[1])


def measure() -> dict[str, Any]:
    """Run every scenario but that of memory."""
    told: dict[str, Any] = {}
    with endpoint() as (url, _):
        told["single_user"] = load(url, num_prompts=20, max_concurrency=1, output_len=48)
        told["concurrent_200"] = load(url, num_prompts=200, output_len=48)
        told["long_generation"] = load(
            url, num_prompts=8, max_concurrency=8, output_len=400, prompt=LONG
        )
        told["peak"] = peak(url)
        rate = 0.8 * told["concurrent_200"]["request_throughput"]
        told["at_80_percent"] = load(
            url, num_prompts=max(40, int(rate * 20)), request_rate=rate, output_len=48
        )
    with endpoint(NEARFAR_SERVE_MAX_RUNNING="8", NEARFAR_SERVE_MAX_QUEUED="8") as (url, _):
        told["overload"] = load(url, num_prompts=200, request_rate=200.0, output_len=48)
    return told | measure_leaving()


def measure_leaving() -> dict[str, Any]:
    """Run the scenario of clients that hang up."""
    with endpoint() as (url, _):
        return {"leaving": leaving(url)}


def peak(url: str) -> list[dict[str, Any]]:
    """Return what each step of a peak costs, from one client to 200."""
    return [
        {"clients": step}
        | load(url, num_prompts=max(20, 2 * step), max_concurrency=step, output_len=48)
        for step in STEPS
    ]


def main() -> None:
    """Measure, print, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--memory-s", type=float, default=600.0)
    parser.add_argument("--only", choices=["memory", "scenarios", "leaving"])
    chosen = parser.parse_args()
    kept = json.loads(chosen.json.read_text("utf-8")) if chosen.only else {}
    document = {
        **kept,
        "hardware": f"{platform.machine()}, {os.cpu_count()} cores shared by server and client",
        "versions": {name: version(name) for name in ("torch", "uvicorn", "starlette", "httpx")},
        "seed": 1,
    }
    if chosen.only == "leaving":
        document |= measure_leaving()
    elif chosen.only != "memory":
        document |= measure()
    if chosen.only in (None, "memory"):
        document |= measure_memory(chosen.memory_s)
    chosen.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
