"""Whether a server's memory stays flat: so many streams at all times, for minutes.

    python -m benchmarks.load --only memory --memory-s 600

Each stream is asked anew as soon as it has ended, so that the server never has fewer of them.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections import Counter
from typing import Any

import httpx
import psutil

from cloud.bench.trial import ask

_WARM_UP_S = 30.0
_LOOK_S = 2.0
_EDGE = 15  # looks at either end, whose median is compared


def memory(url: str, process: psutil.Process, seconds: float, streams: int = 200) -> dict[str, Any]:
    """Keep `streams` answers running for `seconds` after a warm-up, and watch the server."""
    return asyncio.run(_watch(url, process, seconds, streams))


async def _watch(url: str, process: psutil.Process, seconds: float, streams: int) -> dict[str, Any]:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    became: Counter[str] = Counter()
    async with httpx.AsyncClient(limits=limits, trust_env=False) as client:
        until_s = time.monotonic() + _WARM_UP_S + seconds
        numbers = itertools.count()
        asking = [
            asyncio.create_task(_stream(client, url, numbers, until_s, became))
            for _ in range(streams)
        ]
        await asyncio.sleep(_WARM_UP_S)
        began_s, looks = time.monotonic(), []
        while time.monotonic() < until_s:
            looks.append(process.memory_info().rss / 2**20)
            await asyncio.sleep(_LOOK_S)
        took_s = time.monotonic() - began_s
        await asyncio.gather(*asking)
    before, after = statistics.median(looks[:_EDGE]), statistics.median(looks[-_EDGE:])
    return {
        "growth_percent": 100 * (after - before) / before,
        "streams": streams,
        "seconds": took_s,
        "warm_up_s": _WARM_UP_S,
        "answers": dict(became),
        "rss_before_mb": before,
        "rss_after_mb": after,
        "rss_peak_mb": max(looks),
        "rss_over_time_mb": [looks[at] for at in range(0, len(looks), int(60 / _LOOK_S))],
    }


async def _stream(
    client: httpx.AsyncClient,
    url: str,
    numbers: itertools.count[int],
    until_s: float,
    became: Counter[str],
) -> None:
    while time.monotonic() < until_s:
        turns = [{"role": "user", "content": f"What is {next(numbers)} + 17?"}]
        body: dict[str, object] = {
            "model": "nearfar-cloud",
            "messages": turns,
            "max_tokens": 48,
            "temperature": 0,
            "stream": True,
        }
        trial = await ask(client, f"{url}/chat/completions", body, timeout_s=600)
        became["whole" if trial.is_whole else f"not whole ({trial.fault or trial.status})"] += 1
