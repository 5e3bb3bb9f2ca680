"""A picture of the edge's benchmark: how many times better than the other side, by row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

# The ratio to reach, and what the bar says.
BARS = {
    "bare": (0.97, "bare llama_decode loop"),
    "chat_idle": (1.4, "llama_cpp.Llama, idle"),
    "chat_busy": (1.6, "llama_cpp.Llama, all cores, one busy"),
    "governor": (0.95, "best fixed threads, worst load"),
    "clients": (2.0, "llama_cpp.server, 4 clients"),
    "long_chat": (10.0, "truncate and read again, turn 50"),
    "session": (500.0, "read 2,000 tokens again"),
}


def draw(rows: dict[str, dict[str, Any]], path: Path) -> None:
    """Write an SVG of the rows that are speeds: bars of the ratio, a mark at the goal."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "nearfar"  # the same rows, the same file
    names = [name for name in BARS if name in rows][::-1]
    figure, axes = pyplot.subplots(figsize=(8, 0.5 * len(names) + 1.2))
    ratios = [rows[name]["ratio"] for name in names]
    axes.barh([BARS[name][1] for name in names], ratios, color="#4477aa")
    for place, name in enumerate(names):
        axes.plot([BARS[name][0]] * 2, [place - 0.4, place + 0.4], color="#cc3311", linewidth=2)
        told = f"{ratios[place]:,.2f}x" if ratios[place] < 10 else f"{ratios[place]:,.0f}x"
        axes.text(ratios[place] * 1.05, place, told, va="center")
    axes.set_xscale("log")
    axes.set_xlim(0.5, max([2.0, *ratios]) * 3)
    axes.set_xlabel("times as quick as (red: the goal)")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
