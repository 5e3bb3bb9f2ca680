"""The picture of the autoscaling benchmark: clients, replicas, and each request's first token."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def draw(document: dict[str, Any], path: Path) -> None:
    """Write an SVG or PNG of what benchmarks/scaling.py saw."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "nearfar"  # the same figures, the same file
    looks = document["looks"]
    at_s = [look["at_s"] for look in looks]
    figure, (above, below) = pyplot.subplots(2, 1, figsize=(8, 5), sharex=True)
    ready = [look["ready"] for look in looks]
    starting = [look["ready"] + look["starting"] for look in looks]
    draining = [whole + look["draining"] for whole, look in zip(starting, looks, strict=True)]
    above.fill_between(at_s, draining, step="post", color="#dddddd", label="draining")
    above.fill_between(at_s, starting, step="post", color="#ddcc77", label="starting")
    above.fill_between(at_s, ready, step="post", color="#4477aa", label="ready")
    above.set_ylabel("replicas")
    above.set_yticks(range(max(draining) + 2))
    clients = above.twinx()
    clients.step(
        at_s, [look["clients"] for look in looks], where="post", color="#cc3311", label="clients"
    )
    clients.set_ylabel("clients", color="#cc3311")
    handles = [*above.get_legend_handles_labels()[0], *clients.get_legend_handles_labels()[0]]
    above.legend(handles=handles, loc="upper right", fontsize=8)
    whole, asked = document["requests"]["whole"], document["requests"]["asked"]
    above.set_title(f"{document['model']}: {whole} of {asked} requests answered whole")
    times, firsts = zip(*document["first_tokens"], strict=True)
    below.scatter(times, firsts, s=6, color="#4477aa")
    below.set_ylabel("first token, s")
    below.set_xlabel("seconds")
    below.set_ylim(bottom=0)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)
