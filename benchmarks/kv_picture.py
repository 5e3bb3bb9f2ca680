"""A picture of what KV caches cost real models: types by divergence, windows by perplexity."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

Found = dict[str, Any]
TYPES = ("q8_0/f16", "q8_0", "k8v4", "q4_0")


def draw(found: Found, path: Path) -> None:
    """Write an SVG: mean KL divergence by type, and perplexity's change by window and sinks."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "nearfar"  # the same rows, the same file
    models = {name: parts for name, parts in found.items() if isinstance(parts, dict)}
    figure, (types, windows) = pyplot.subplots(1, 2, figsize=(11, 4))
    for number, (name, parts) in enumerate(models.items()):
        label, color = _short(name), f"C{number}"
        for text, style in (("text", "o-"), ("chats", "s:")):
            rows = parts.get(text) or {}
            shown = [kind for kind in TYPES if kind in rows]
            losses = [rows[kind]["divergence"] for kind in shown]
            what = "wikitext" if text == "text" else text
            if shown:
                types.plot(shown, losses, style, color=color, label=f"{label}, {what}")
        for sinks, style in ((4, "o-"), (0, "x:")):
            points = [
                (int(part.split()[1]), 100 * rows[f"{sinks} sinks"]["perplexity_change"])
                for part, rows in parts.items()
                if part.startswith("window") and rows
            ]
            if points:
                label_of = f"{label}, {sinks or 'no'} sinks"
                windows.plot(*zip(*points, strict=True), style, color=color, label=label_of)
    types.set_yscale("log")
    types.set_ylabel("mean KL divergence from f16, nats")
    windows.set_yscale("symlog", linthresh=2)
    windows.axhline(2, color="#cc3311", linewidth=1)
    windows.set_xlabel("window, tokens; ten windows of wikitext")
    windows.set_ylabel("perplexity over a full cache, % (red: 2%)")
    for axes in (types, windows):
        if axes.has_data():
            axes.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def _short(name: str) -> str:
    """Return a model's name up to its size."""
    found = re.match(r".*?\d+(\.\d+)?[bm]", name)
    return found[0] if found else name


def table(found: Found) -> str:
    """Return the rows as a Markdown table."""
    lines = [
        "| model | text | cache | perplexity | KL | worst tenth |",
        "|---|---|---|---|---|---|",
    ]
    for model, parts in found.items():
        if not isinstance(parts, dict):
            continue
        for part, rows in parts.items():
            for cache, row in rows.items():
                change, error = 100 * row["perplexity_change"], 100 * row["standard_error"]
                text = "wikitext" if part != "chats" else "chats"
                kind = f"{part}, {cache}" if part.startswith("window") else cache
                lines.append(
                    f"| {_short(model)} | {text}, {row['num_tokens']} tokens | {kind} | "
                    f"{change:+.2f}% +- {error:.2f} | {row['divergence']:.4f} | "
                    f"{row['worst_tenth']:.4f} |"
                )
    return "\n".join(lines)
