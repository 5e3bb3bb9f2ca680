"""How soon the engine is free again when clients hang up in the middle of their answers.

    python -m benchmarks.load --only leaving

Real sockets. The clock runs from the close of the last socket to the end of the first look at
`/metrics` that shows no answer running and no block of the cache held, so each figure holds one
look, whose own time is told beside it.
"""

from __future__ import annotations

import asyncio
import json
import re
import statistics
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx

from offload.pair import CLOUD_MODEL

_ROUNDS = {1: 100, 32: 20}  # clients that leave at once, and how often
_LOST_S = 30.0


def leaving(url: str) -> dict[str, Any]:
    """Let clients of an endpoint leave, alone and many at once."""
    return asyncio.run(_leave(url))


async def _leave(url: str) -> dict[str, Any]:
    limits = httpx.Limits(max_connections=None)
    told: dict[str, Any] = {}
    async with httpx.AsyncClient(limits=limits, trust_env=False, timeout=60) as client:
        page = url.removesuffix("/v1") + "/metrics"
        for num_clients, rounds in _ROUNDS.items():
            aborted = await _number(client, page, 'request_success_total{finished_reason="abort"}')
            seconds = [await _round(client, url, page, num_clients) for _ in range(rounds)]
            now = await _number(client, page, 'request_success_total{finished_reason="abort"}')
            assert now - aborted == num_clients * rounds, "none had ended by itself"
            told[f"{num_clients}_at_once"] = _row([1000 * each for each in seconds])
        looks = [await _timed_look(client, page) for _ in range(50)]
    return told | {"p50_look_ms": 1000 * statistics.median(looks)}


async def _round(client: httpx.AsyncClient, url: str, page: str, num_clients: int) -> float:
    """Return the seconds from the last client's leaving to an engine that is free."""
    streams = await asyncio.gather(*(_begin(client, url) for _ in range(num_clients)))
    running = await _number(client, page, "num_requests_running")
    assert running == num_clients, f"{running:g} of {num_clients} answers are written"
    for response, _ in streams:
        await response.aclose()
    began_s = time.perf_counter()
    while not await _is_free(client, page):
        assert time.perf_counter() - began_s < _LOST_S, "an answer that nobody reads goes on"
    return time.perf_counter() - began_s


async def _begin(client: httpx.AsyncClient, url: str) -> tuple[httpx.Response, AsyncIterator[str]]:
    """Return an answer that has begun and ends in some seconds, and its lines.

    Drawn by chance: a greedy answer without an end repeats itself, which drafts make quick.
    """
    body = {"model": "auto", "prompt": "Count:", "stream": True, "max_tokens": 480}
    body["temperature"] = 1.0
    ends = json.loads((CLOUD_MODEL / "config.json").read_text("utf-8"))["eos_token_id"]
    ids = ends if isinstance(ends, list) else [ends]
    body["logit_bias"] = {str(each): -100 for each in ids}
    request = client.build_request("POST", f"{url}/completions", json=body)
    response = await client.send(request, stream=True)
    assert response.status_code == 200, "an answer begins"
    lines = response.aiter_lines()
    await anext(lines)  # the first token
    return response, lines  # without a reader of its lines httpx would hang up by itself


async def _is_free(client: httpx.AsyncClient, page: str) -> bool:
    text = (await client.get(page)).text
    return all(
        _read(text, name) == 0
        for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")
    )


async def _number(client: httpx.AsyncClient, page: str, name: str) -> float:
    return _read((await client.get(page)).text, name)


async def _timed_look(client: httpx.AsyncClient, page: str) -> float:
    began_s = time.perf_counter()
    await _is_free(client, page)
    return time.perf_counter() - began_s


def _read(page: str, name: str) -> float:
    bare, _, labels = name.partition("{")
    pattern = rf"^nearfar:{re.escape(bare)}" + (re.escape("{" + labels) if labels else "")
    found = re.search(pattern + r" (\S+)$", page, re.MULTILINE)
    return float(found[1]) if found else 0.0


def _row(milliseconds: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(milliseconds, n=100, method="inclusive")
    return {
        "rounds": len(milliseconds),
        "p50_ms": cuts[49],
        "p90_ms": cuts[89],
        "p99_ms": cuts[98],
        "max_ms": max(milliseconds),
    }
