"""A picture of a deferral curve beside the lines it is compared with, as PNG or SVG."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from backbone.error_causes import cause
from offload.errors import RequestError
from offload.policy.fitting.deferral_curve import Curve

_LINES = {
    "oracle": ("knows both answers", "#9e9e9e", ":"),
    "self_knowledge": ("knows when the near model is right", "#2e7d32", "--"),
    "random": ("asks far at random", "#9e9e9e", "-"),
}


def draw(curve: Curve, lines: Mapping[str, Curve], path: Path, *, title: str) -> None:
    """Draw what share of the gap between near and far is recovered by what share sent far.

    Raises RequestError where matplotlib is not installed or the file cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise RequestError(
            "matplotlib is not installed; "
            "pip install 'nearfar[plot]' brings it, or leave out --plot"
        ) from None
    figure = Figure(figsize=(7.0, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name, each in lines.items():
        words, colour, style = _LINES[name]
        label = f"{words} ({each.apgr:.3f})"
        axes.plot(each.share, each.recovered, style, color=colour, linewidth=1.2, label=label)
    label = f"this policy ({curve.apgr:.3f})"
    axes.plot(curve.share, curve.recovered, color="#1565c0", linewidth=2.0, label=label)
    axes.set(xlabel="share of the questions sent far", title=title, xlim=(0.0, 1.0))
    axes.set_ylabel("share of the gap in quality recovered")
    axes.legend(loc="lower right", title="area under the curve", frameon=False)
    axes.grid(alpha=0.25)
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise RequestError(
            f"{path} cannot be written ({cause(error)}); name a .png or .svg"
        ) from None
