"""Every scaling function played against the same loads: a picture of each load, and a table.

    python -m benchmarks.autoscale        writes docs/autoscale_*.svg and benchmarks/autoscale.json
    python -m benchmarks.autoscale --record LOG     from an endpoint's JSON log, load_recorded.csv

Three loads are synthetic, from a fixed seed; `recorded` is what our own endpoint was asked when
MLPerf's LoadGen ran its scenarios SingleStream and Server against it, one after the other
(benchmarks/mlperf.py). The queue is a fluid model (cloud/fleet/simulate_scaling.py).
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

from cloud.fleet.autoscale import SCALING_POLICIES, Scaler, ScalingOptions
from cloud.fleet.recorded_load import read, read_log, write
from cloud.fleet.simulate_scaling import SimulatedStep, simulate

ROOT = Path(__file__).resolve().parents[1]
OPTIONS = ScalingOptions(min_replicas=1, max_replicas=10, upscale_delay_s=30, downscale_delay_s=300)
# The recording is of minutes, not of hours, and its replicas are as quick as our small model.
QUICK = ScalingOptions(
    min_replicas=1, max_replicas=10, upscale_delay_s=3, downscale_delay_s=30, look_ahead_s=5
)
RECORDED = ROOT / "benchmarks" / "load_recorded.csv"
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


@dataclass(frozen=True, kw_only=True)
class Played:
    """A load, and the replicas that are to bear it."""

    step_s: float
    load: Sequence[float]
    options: ScalingOptions = OPTIONS
    served_per_s: float = 2.0
    start_s: float = 60.0


def all_loads() -> dict[str, Played]:
    """Return the synthetic loads and the recorded one."""
    made = {name: Played(step_s=step_s, load=load) for name, (step_s, load) in loads().items()}
    seen = [float(second.requests) for second in read(RECORDED)]
    made["recorded"] = Played(step_s=1.0, load=seen, options=QUICK, served_per_s=10.0, start_s=5.0)
    return made


def picture(name: str, of: Played, played: dict[str, list[SimulatedStep]]) -> str:
    """Return an SVG: the replicas that the load needs, and those that each function had."""
    load, last_s = of.load, len(of.load) * of.step_s
    last = f"{last_s / 3600:g} h" if last_s > 1200 else f"{last_s:g} s"
    needed = [each / of.served_per_s for each in load]
    most = max(of.options.max_replicas, max(needed))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="{_EDGE}" y="20" font-size="14">Replicas: {name}</text>',
        _line(needed, most, "#9e9e9e", width=3),
    ]
    for number, (wish, moments) in enumerate(played.items()):
        colour = _COLOURS[wish]
        parts.append(_line([m.num_replicas for m in moments], most, colour))
        x = _EDGE + 150 + number * 100
        parts.append(f'<text x="{x}" y="20" fill="{colour}">{wish}</text>')
    parts += [
        f'<text x="{_EDGE}" y="{_HEIGHT - 8}">0</text>',
        f'<text x="{_WIDTH - 70}" y="{_HEIGHT - 8}">{last}</text>',
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


def row(moments: Sequence[SimulatedStep], step_s: float) -> dict[str, float]:
    """Return what a function cost, and what it spared those who waited."""
    waits = sorted(moment.wait_s for moment in moments)
    counts = [moment.num_replicas for moment in moments]
    return {
        "replica_hours": sum(counts) * step_s / 3600,
        "p50_wait_s": waits[len(waits) // 2],
        "p99_wait_s": waits[int(0.99 * (len(waits) - 1))],
        "changes": sum(a != b for a, b in pairwise(counts)),
    }


def _play(of: Played, wish: str) -> list[SimulatedStep]:
    return simulate(
        of.load,
        Scaler(SCALING_POLICIES[wish], of.options),
        step_s=of.step_s,
        served_per_s=of.served_per_s,
        start_s=of.start_s,
    )


def main() -> None:
    """Play every load, and write the pictures and the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", type=Path, help="an endpoint's JSON log to keep as a load")
    log = parser.parse_args().record
    if log is not None:
        write(RECORDED, read_log(log.read_text("utf-8").splitlines()))
    table: dict[str, dict[str, dict[str, float]]] = {}
    for name, of in all_loads().items():
        played = {wish: _play(of, wish) for wish in SCALING_POLICIES}
        path = ROOT / "docs" / f"autoscale_{name}.svg"
        path.write_text(picture(name, of, played), encoding="utf-8")
        table[name] = {wish: row(moments, of.step_s) for wish, moments in played.items()}
    options = {"synthetic": asdict(OPTIONS), "recorded": asdict(QUICK)}
    document = {"seed": 8, "options": options, "loads": table}
    path = Path(__file__).with_suffix(".json")
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(table, indent=2))


if __name__ == "__main__":
    main()
