"""Pareto plot of a report: size against KL divergence, the best models joined by a line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

from backbone.files import SHARED, atomic_write
from quantize.report import QuantizationReport, ReportRow

_WIDTH, _HEIGHT = 720, 460
_LEFT, _RIGHT, _TOP, _BOTTOM = 80, 150, 40, 60
_INK, _LINE, _FRONT, _REST = "#222222", "#d0d0d0", "#1565c0", "#9e9e9e"


def pareto_front(rows: Sequence[ReportRow]) -> list[ReportRow]:
    """Return the rows than which no other is both smaller and nearer, smallest first."""
    best = math.inf
    front: list[ReportRow] = []
    for row in sorted(rows, key=lambda r: (r.size_bytes, r.mean_kld)):
        if row.mean_kld < best:
            front.append(row)
            best = row.mean_kld
    return front


def write_picture(report: QuantizationReport, path: Path) -> None:
    """Write an SVG: megabytes across, mean KL divergence upwards on a logarithmic scale."""
    atomic_write(path, picture(report).encode(), mode=SHARED)


def picture(report: QuantizationReport) -> str:
    """Return the SVG text."""
    scale = _Scale(report.rows)
    front = pareto_front(report.rows)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'font-family="sans-serif" font-size="12" fill="{_INK}">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="{_LEFT}" y="24" font-size="14">Size and distance from '
        f"{escape(Path(report.reference).name)}</text>",
        *scale.grid(),
    ]
    points = " ".join(f"{scale.x(r):.1f},{scale.y(r):.1f}" for r in front)
    parts.append(f'<polyline points="{points}" fill="none" stroke="{_FRONT}" stroke-width="1.5"/>')
    parts += [_dot(scale, row, _FRONT if row in front else _REST) for row in report.rows]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _dot(scale: _Scale, row: ReportRow, colour: str) -> str:
    x, y = scale.x(row), scale.y(row)
    name = escape(Path(row.model).name)
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>'
        f'<text x="{x + 7:.1f}" y="{y + 4:.1f}">{name}</text>'
    )


class _Scale:
    """From bytes and nats to places in the picture."""

    def __init__(self, rows: Sequence[ReportRow]) -> None:
        sizes = [row.size_bytes for row in rows]
        klds = [_log(row) for row in rows]
        self._sizes = (min(sizes) * 0.95, max(sizes) * 1.05)
        self._klds = (math.floor(min(klds)), max(math.ceil(max(klds)), math.floor(min(klds)) + 1))

    def x(self, row: ReportRow) -> float:
        low, high = self._sizes
        share = (row.size_bytes - low) / (high - low)
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def y(self, row: ReportRow) -> float:
        return self._height(_log(row))

    def _height(self, exponent: float) -> float:
        low, high = self._klds
        return _HEIGHT - _BOTTOM - (exponent - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    def grid(self) -> list[str]:
        parts = []
        for exponent in range(self._klds[0], self._klds[1] + 1):
            y = self._height(exponent)
            parts.append(
                f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" '
                f'stroke="{_LINE}"/><text x="{_LEFT - 8}" y="{y + 4:.1f}" '
                f'text-anchor="end">1e{exponent}</text>'
            )
        low, high = self._sizes
        for step in range(5):
            size = low + (high - low) * step / 4
            x = _LEFT + step / 4 * (_WIDTH - _LEFT - _RIGHT)
            parts.append(
                f'<text x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">'
                f"{size / 1e6:.2f}</text>"
            )
        parts.append(
            f'<text x="{_LEFT}" y="{_HEIGHT - 14}">megabytes (mean KL divergence, nats,'
            " upwards)</text>"
        )
        return parts


def _log(row: ReportRow) -> float:
    return math.log10(max(row.mean_kld, 1e-9))
