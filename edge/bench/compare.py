"""Command `nearfar bench compare`: two reports, with an interval for each ratio."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from backbone.errors import NearfarError, cause
from backbone.terminal_text import echo, echo_json, printable

DRAWS, SEED = 5_000, 1
Values = npt.NDArray[np.float64]
Samples = Mapping[str, Sequence[float]]


class _Report(msgspec.Struct):
    samples: dict[str, list[float]] = {}


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Mean of a figure in both reports, and how the second stands to the first.

    `change` is second / first, or second - first of a share (samples that are all 0 or 1);
    `interval95` is its percentile bootstrap (Efron 1979), each report drawn anew with replacement.
    """

    name: str
    first: float
    second: float
    is_share: bool
    change: float
    interval95: tuple[float, float]

    @property
    def differs(self) -> bool:
        """Return whether the interval leaves out no change."""
        same = 0.0 if self.is_share else 1.0
        low, high = self.interval95
        return not low <= same <= high


def run_comparison(first: Path, second: Path, *, as_json: bool) -> None:
    """Print how the second report's figures stand to the first's. Raises NearfarError."""
    rows = compare(read_samples(first), read_samples(second))
    if not rows:
        raise NearfarError(
            f"{first} and {second} have no figure in common with two samples in each; "
            "give two reports of one benchmark"
        )
    if as_json:
        echo_json(msgspec.json.encode({"figures": rows}).decode())
        return
    for row in rows:
        echo(printable(_line(row)))


def compare(first: Samples, second: Samples) -> list[Comparison]:
    """Return a comparison of every figure that both have at least two samples of."""
    names = [name for name in first if min(len(first[name]), len(second.get(name, ()))) >= 2]
    return [_compared(name, np.array(first[name]), np.array(second[name])) for name in names]


def read_samples(path: Path) -> dict[str, list[float]]:
    """Return the samples of a report. Raises NearfarError where it is not one or has none."""
    try:
        report = msgspec.json.decode(path.read_bytes(), type=_Report)
    except (OSError, msgspec.DecodeError) as error:
        raise NearfarError(
            f"{path} cannot be read ({cause(error)}); give what a benchmark wrote with --json, "
            "--report or --result-file"
        ) from None
    if not report.samples:
        raise NearfarError(f"{path} has no samples to draw an interval from; measure it again")
    return report.samples


def _compared(name: str, first: Values, second: Values) -> Comparison:
    random = np.random.default_rng(SEED)
    is_share = bool(np.isin(np.concatenate([first, second]), (0, 1)).all())
    before, after = (_drawn_means(side, random) for side in (first, second))

    def change(old: Values, new: Values) -> Values:
        return new - old if is_share else new / np.where(old == 0, np.nan, old)

    low, high = np.nanpercentile(change(before, after), (2.5, 97.5))
    return Comparison(
        name=name,
        first=float(first.mean()),
        second=float(second.mean()),
        is_share=is_share,
        change=float(change(first.mean(keepdims=True), second.mean(keepdims=True))[0]),
        interval95=(float(low), float(high)),
    )


def _drawn_means(values: Values, random: np.random.Generator) -> Values:
    # One resample at a time: a report may hold a million samples.
    means = [values[random.integers(0, len(values), len(values))].mean() for _ in range(DRAWS)]
    return np.array(means)


def _line(row: Comparison) -> str:
    low, high = row.interval95
    verdict = "" if row.differs else "  no difference seen"
    if row.is_share:
        sides = f"{row.first:10.1%} {row.second:10.1%}"
        return f"{row.name:24} {sides}  {row.change:+.1%} ({low:+.1%} to {high:+.1%}){verdict}"
    sides = f"{row.first:10.4g} {row.second:10.4g}"
    return f"{row.name:24} {sides}  {row.change:.3f}x ({low:.3f} to {high:.3f}){verdict}"
