"""The report of a load test: percentiles, throughput, goodput, and what was refused or lost."""

from __future__ import annotations

import asyncio
import json
import math
import os
import platform
import statistics
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from backbone.files import SHARED, atomic_write, require_outputs
from backbone.terminal_text import echo
from cloud.bench.load import run
from cloud.bench.load_options import LoadOptions
from cloud.bench.trial import RequestTrial

_REFUSED = (429, 503)


def bench(options: LoadOptions, *, result: Path | None, as_json: bool) -> None:
    """Run the load test and print its report. Raises NearfarError."""
    require_outputs(result)
    trials = asyncio.run(run(options))
    document = {**_options(options), **_machine(), **summarize(trials, options)}
    told = {**document, "samples": _metrics([trial for trial in trials if trial.is_whole])}
    if result is not None:
        atomic_write(result, f"{json.dumps(told, indent=2)}\n".encode(), mode=SHARED)
    if as_json:
        echo(json.dumps(told))
        return
    for name, value in document.items():
        echo(f"{name:24} {value:.2f}" if isinstance(value, float) else f"{name:24} {value}")


def _options(options: LoadOptions) -> dict[str, Any]:
    rate = "inf" if math.isinf(options.request_rate) else options.request_rate
    return {
        "model": options.model,
        "num_prompts": options.num_prompts,
        "request_rate": rate,
        "burstiness": options.burstiness,
        "max_concurrency": options.max_concurrency,
        "output_len": options.output_len,
        "seed": options.seed,
    }


def _machine() -> dict[str, Any]:
    return {
        "client": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {"python": platform.python_version(), "httpx": version("httpx")},
    }


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which `share` per cent lie, between neighbours by proportion."""
    ordered = sorted(values)
    place = (len(ordered) - 1) * share / 100
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def summarize(trials: Sequence[RequestTrial], options: LoadOptions) -> dict[str, Any]:
    """Return the report; times are in milliseconds, rates in one a second.

    `lost` are answers that began and did not end, or were never answered at all.
    """
    good = [trial for trial in trials if trial.is_whole]
    refused = [trial for trial in trials if trial.status in _REFUSED]
    began_s = min(trial.started_s for trial in trials)
    took_s = max(trial.started_s + trial.e2el_s for trial in trials) - began_s
    num_tokens = sum(trial.num_tokens for trial in good)
    report: dict[str, Any] = {
        "completed": len(good),
        "refused": len(refused),
        "lost": len(trials) - len(good) - len(refused),
        "statuses": dict(Counter(str(trial.status) for trial in trials)),
        "duration_s": took_s,
        "request_throughput": len(good) / took_s,
        "output_throughput": num_tokens / took_s,
        "total_output_tokens": num_tokens,
        "max_concurrent": most_at_once(trials),
    }
    for name, values in _metrics(good).items():
        report |= _spread(f"{name}_ms", values, options)
    if refused:
        report |= _spread("refusal_ms", [trial.e2el_s * 1000 for trial in refused], options)
    if options.bounds_ms:
        report["goodput"] = sum(_is_good(trial, options.bounds_ms) for trial in good) / took_s
    return report


def most_at_once(trials: Sequence[RequestTrial]) -> int:
    """Return how many answers were open at the same time, at the most."""
    edges = [(trial.started_s, 1) for trial in trials if trial.is_whole]
    edges += [(trial.started_s + trial.e2el_s, -1) for trial in trials if trial.is_whole]
    peak = open_now = 0
    for _, change in sorted(edges):
        open_now += change
        peak = max(peak, open_now)
    return peak


def _metrics(good: Sequence[RequestTrial]) -> dict[str, list[float]]:
    ttft = [trial.ttft_s * 1000 for trial in good if trial.ttft_s is not None]
    tpot = [trial.tpot_s * 1000 for trial in good if trial.tpot_s is not None]
    return {"ttft": ttft, "tpot": tpot, "e2el": [trial.e2el_s * 1000 for trial in good]}


def _spread(name: str, values: Sequence[float], options: LoadOptions) -> dict[str, float]:
    if not values:
        return {}
    spread = {f"mean_{name}": statistics.fmean(values)}
    for share in options.percentiles:
        spread[f"p{share:g}_{name}"] = percentile(values, share)
    return spread


def _is_good(trial: RequestTrial, bounds: dict[str, float]) -> bool:
    seconds = {"ttft": trial.ttft_s, "tpot": trial.tpot_s, "e2el": trial.e2el_s}
    return all(
        (value := seconds[name]) is not None and value * 1000 <= bound
        for name, bound in bounds.items()
    )
