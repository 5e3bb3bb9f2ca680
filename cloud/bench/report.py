"""What a load test showed: percentiles, throughput, goodput, and what was refused or lost."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any

from cloud.bench.options import LoadOptions
from cloud.bench.trial import RequestTrial

_REFUSED = (429, 503)


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
    if options.goodput:
        report["goodput"] = sum(_is_good(trial, options.goodput) for trial in good) / took_s
    return report


def most_at_once(trials: Sequence[RequestTrial]) -> int:
    """Return how many answers were open at the same time, at the most."""
    edges = [(trial.started_s, 1) for trial in trials if trial.is_whole]
    edges += [(trial.started_s + trial.e2el_s, -1) for trial in trials if trial.is_whole]
    most = open_now = 0
    for _, change in sorted(edges):
        open_now += change
        most = max(most, open_now)
    return most


def _metrics(good: Sequence[RequestTrial]) -> dict[str, list[float]]:
    ttft = [trial.ttft_s * 1000 for trial in good if trial.ttft_s is not None]
    tpot = [trial.tpot_s * 1000 for trial in good if trial.tpot_s is not None]
    return {"ttft": ttft, "tpot": tpot, "e2el": [trial.e2el_s * 1000 for trial in good]}


def _spread(name: str, values: Sequence[float], options: LoadOptions) -> dict[str, float]:
    if not values:
        return {}
    spread = {f"mean_{name}": statistics.fmean(values)}
    for share in options.metric_percentiles:
        spread[f"p{share:g}_{name}"] = percentile(values, share)
    return spread


def _is_good(trial: RequestTrial, bounds: dict[str, float]) -> bool:
    seconds = {"ttft": trial.ttft_s, "tpot": trial.tpot_s, "e2el": trial.e2el_s}
    return all(
        (value := seconds[name]) is not None and value * 1000 <= bound
        for name, bound in bounds.items()
    )
