"""What a request costs in processor time: the face's loop, the engine's threads, and the client.

    python -m benchmarks.face_cpu        writes benchmarks/face_cpu.json

Processor time, not seconds: it tells which of server, client and machine is the limit also where
other programs run. Each side is a server of its own, by turns; refusals are those of a server whose
one place is taken. `uvloop` is left out where the extra `fast` is not installed.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import os
import platform
import statistics
from collections import defaultdict
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import psutil

from backbone.event_loop import SWITCH
from benchmarks.load import endpoint
from cloud.bench.load import run
from cloud.bench.load_options import LoadOptions
from cloud.bench.report import summarize

ROOT = Path(__file__).resolve().parents[1]
NUM, AT_ONCE, ROUNDS = 200, 50, 2
SIDES = ("asyncio", "uvloop")


def _options(url: str, num: int, at_once: int) -> LoadOptions:
    return LoadOptions(
        base_url=url,
        model="nearfar-cloud",
        seed=1,
        num_prompts=num,
        max_concurrency=at_once,
        output_len=48,
        num_warmups=0,
    )


def _cpu_s(process: psutil.Process) -> dict[str, float]:
    """Return the processor seconds of a server's loop, its first thread, of the rest, and ours."""
    each = {thread.id: thread.user_time + thread.system_time for thread in process.threads()}
    loop_s = each.pop(process.pid)
    own = psutil.Process().cpu_times()
    return {"loop": loop_s, "engine": sum(each.values()), "client": own.user + own.system}


def _cost(process: psutil.Process, work: Callable[[], dict[str, Any]]) -> dict[str, float]:
    """Return the processor milliseconds of each of NUM requests, by who spent them."""
    before = _cpu_s(process)
    told = work()
    after = _cpu_s(process)
    cost = {name: 1000 * (after[name] - before[name]) / NUM for name in before}
    return cost | {"tokens": told["total_output_tokens"] / NUM}


def _answered(url: str) -> dict[str, Any]:
    options = _options(url, NUM, AT_ONCE)
    told = summarize(asyncio.run(run(options)), options)
    assert told["completed"] == NUM, "every answer is whole"
    return told


def _refused(url: str) -> dict[str, Any]:
    async def beside_one() -> dict[str, Any]:
        body = {"model": "auto", "prompt": "Count:", "stream": True, "max_tokens": 480}
        body |= {"temperature": 1.0, "ignore_eos": True}
        async with httpx.AsyncClient(trust_env=False, timeout=120) as client:
            holding = asyncio.create_task(_hold(client, f"{url}/completions", body))
            await asyncio.sleep(1.0)
            options = _options(url, NUM, 16)
            told = summarize(await run(options), options)
            holding.cancel()
            await asyncio.gather(holding, return_exceptions=True)
            return told

    told = asyncio.run(beside_one())
    assert told["refused"] > 0.9 * NUM, "the only place is taken"
    return told


async def _hold(client: httpx.AsyncClient, url: str, body: dict[str, object]) -> None:
    """Have one answer written at all times."""
    while True:
        async with client.stream("POST", url, json=body) as reply:
            async for _ in reply.aiter_lines():
                pass


def measure_side(side: str) -> dict[str, dict[str, float]]:
    """Return what an answered and a refused request cost with one event loop."""
    loop = {SWITCH: "asyncio" if side == "asyncio" else ""}
    with endpoint(**loop) as (url, process):
        asyncio.run(run(_options(url, 20, 4)))
        answered = _cost(process, lambda: _answered(url))
    with endpoint(**loop, NEARFAR_SERVE_MAX_RUNNING="1", NEARFAR_SERVE_MAX_QUEUED="0") as (
        url,
        process,
    ):
        refused = _cost(process, lambda: _refused(url))
    return {"answered": answered, "refused": refused}


def main() -> None:
    """Measure, print, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, default=Path(__file__).with_suffix(".json"))
    chosen = parser.parse_args()
    sides = [side for side in SIDES if side == "asyncio" or importlib.util.find_spec(side)]
    found: defaultdict[str, list[dict[str, dict[str, float]]]] = defaultdict(list)
    for _ in range(ROUNDS):
        for side in sides:
            found[side].append(measure_side(side))
    medians = {
        side: {
            kind: {
                name: round(statistics.median(each[kind][name] for each in rounds), 2)
                for name in rounds[0][kind]
            }
            for kind in ("answered", "refused")
        }
        for side, rounds in found.items()
    }
    document: dict[str, Any] = {
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs",
        "load_average": round(os.getloadavg()[0], 1),
        "versions": {name: version(name) for name in ("uvicorn", "starlette", "httpx", "torch")},
        "rounds": ROUNDS,
        "cpu_ms_each": medians,
    }
    if "uvloop" in medians:
        document["uvloop_over_asyncio"] = {
            kind: round(medians["uvloop"][kind]["loop"] / medians["asyncio"][kind]["loop"], 2)
            for kind in ("answered", "refused")
        }
    chosen.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
