"""Every scaling function played against the same loads: a picture of each load, and a table.

    python -m benchmarks.autoscale        writes docs/autoscale_*.svg and benchmarks/autoscale.json

The loads are synthetic, from a fixed seed; the queue is a fluid model (cloud/fleet/simulate.py).
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from cloud.fleet.autoscale import WISHES, Scaler, ScalingOptions
from cloud.fleet.simulate import Moment, simulate

ROOT = Path(__file__).resolve().parents[1]
OPTIONS = ScalingOptions(min_replicas=1, max_replicas=10, upscale_delay_s=30, downscale_delay_s=300)
_WIDTH, _HEIGHT, _EDGE, _TOP = 720, 280, 48, 36
_COLOURS = {
    "queue": "#1565c0",
    "utilization": "#2e7d32",
    "latency": "#c62828",
    "predictive": "#6a1b9a",
}


def loads() -> dict[str, tuple[float, list[float]]]:
    """Return the seconds of a step, and the arrivals a second in each."""
    draw = random.Random(8)
    day = [
        4 + 3.5 * math.sin(2 * math.pi * (n / 1440 - 0.3)) + 2.0 * (n % 1440 in range(720, 780))
        for n in range(2 * 1440)
    ]
    bursts, level = [], 1.0
    for _ in range(720):
        level = 12.0 if draw.random() < 0.01 else max(1.0, level * 0.97)
        bursts.append(level)
    return {
        "step": (10.0, [1.0] * 90 + [12.0] * 270 + [1.0] * 180),
        "day": (60.0, [max(0.0, each + draw.gauss(0, 0.3)) for each in day]),
        "bursts": (10.0, bursts),
    }


def picture(name: str, hours: float, load: Sequence[float], played: dict[str, list[Moment]]) -> str:
    """Return an SVG: the replicas that the load needs, and those that each function had."""
    most = max(OPTIONS.max_replicas, max(load) / 2)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="{_EDGE}" y="20" font-size="14">Replicas: {name}</text>',
        _line([each / 2 for each in load], most, "#9e9e9e", width=3),
    ]
    for number, (wish, moments) in enumerate(played.items()):
        colour = _COLOURS[wish]
        parts.append(_line([m.num_replicas for m in moments], most, colour))
        x = _EDGE + 150 + number * 100
        parts.append(f'<text x="{x}" y="20" fill="{colour}">{wish}</text>')
    parts += [
        f'<text x="{_EDGE}" y="{_HEIGHT - 8}">0 h</text>',
        f'<text x="{_WIDTH - 70}" y="{_HEIGHT - 8}">{hours:g} h</text>',
        f'<text x="8" y="{_TOP + 8}">{most:g}</text><text x="8" y="{_HEIGHT - 30}">0</text>',
        f'<text x="{_WIDTH - 190}" y="{_HEIGHT - 8}" fill="#9e9e9e">grey: needed</text></svg>',
    ]
    return "\n".join(parts) + "\n"


def _line(values: Sequence[float], most: float, colour: str, width: float = 1.5) -> str:
    every = max(1, len(values) // 600)
    wide, high = _WIDTH - 2 * _EDGE, _HEIGHT - _TOP - 30
    points = " ".join(
        f"{_EDGE + wide * n / len(values):.1f},{_TOP + high * (1 - values[n] / most):.1f}"
        for n in range(0, len(values), every)
    )
    return f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="{width}"/>'


def row(moments: Sequence[Moment], step_s: float) -> dict[str, float]:
    """Return what a function cost, and what it spared those who waited."""
    waits = sorted(moment.wait_s for moment in moments)
    counts = [moment.num_replicas for moment in moments]
    return {
        "replica_hours": sum(counts) * step_s / 3600,
        "p50_wait_s": waits[len(waits) // 2],
        "p99_wait_s": waits[int(0.99 * (len(waits) - 1))],
        "changes": sum(a != b for a, b in pairwise(counts)),
    }


def main() -> None:
    """Play every load, and write the pictures and the table."""
    table: dict[str, dict[str, dict[str, float]]] = {}
    for name, (step_s, load) in loads().items():
        played = {
            wish: simulate(load, Scaler(WISHES[wish], OPTIONS), step_s=step_s, served_per_s=2.0)
            for wish in WISHES
        }
        path = ROOT / "docs" / f"autoscale_{name}.svg"
        path.write_text(picture(name, len(load) * step_s / 3600, load, played), encoding="utf-8")
        table[name] = {wish: row(moments, step_s) for wish, moments in played.items()}
    document = {"seed": 8, "options": "see the script", "loads": table}
    path = Path(__file__).with_suffix(".json")
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(table, indent=2))


if __name__ == "__main__":
    main()
