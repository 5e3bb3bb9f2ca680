"""Knapsack of multiple choice: one option for each item, least total cost within a size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_UNITS = 20_000  # the budget is divided into this many units, sizes rounded up


@dataclass(frozen=True, kw_only=True)
class Option:
    """Option for an item: its size in bytes, and its cost."""

    name: str
    size_bytes: int
    cost: float


def choose(items: Sequence[Sequence[Option]], budget_bytes: int) -> list[Option] | None:
    """Return one option per item, total size at most the budget, or None where nothing fits.

    Dynamic programming over sizes (Dudzinski and Walukiewicz, 1987), exact up to the rounding
    of sizes; what the rounding leaves over is spent on the best upgrades that still fit.
    """
    smallest = sum(min(option.size_bytes for option in options) for options in items)
    if smallest > budget_bytes:
        return None
    # Sizes of real matrices share a large divisor; with it nothing is rounded.
    common = math.gcd(*(option.size_bytes for options in items for option in options))
    unit = max(common, -(-budget_bytes // _UNITS))
    chosen = _dynamic(items, budget_bytes // unit, unit)
    if chosen is None:  # only rounding stands in the way
        chosen = [min(options, key=lambda o: o.size_bytes) for options in items]
    return _upgraded(items, chosen, budget_bytes)


def _dynamic(items: Sequence[Sequence[Option]], capacity: int, unit: int) -> list[Option] | None:
    best: NDArray[np.float64] = np.zeros(capacity + 1)
    picks = np.zeros((len(items), capacity + 1), dtype=np.int16)
    for row, options in enumerate(items):
        found = np.full(capacity + 1, np.inf)
        for number, option in enumerate(options):
            size = -(-option.size_bytes // unit)
            if size > capacity:
                continue
            cost = best[: capacity + 1 - size] + option.cost
            better = cost < found[size:]
            found[size:][better] = cost[better]
            picks[row, size:][better] = number
        best = found
    if not np.isfinite(best[capacity]):
        return None
    chosen: list[Option] = []
    left = int(best.argmin())
    for row in range(len(items) - 1, -1, -1):
        option = items[row][picks[row, left]]
        chosen.append(option)
        left -= -(-option.size_bytes // unit)
    return chosen[::-1]


def _upgraded(
    items: Sequence[Sequence[Option]], chosen: list[Option], budget_bytes: int
) -> list[Option]:
    chosen = list(chosen)
    left = budget_bytes - sum(option.size_bytes for option in chosen)
    while True:
        gains = [
            ((now.cost - option.cost) / max(option.size_bytes - now.size_bytes, 1), row, option)
            for row, (now, options) in enumerate(zip(chosen, items, strict=True))
            for option in options
            if option.cost < now.cost and option.size_bytes - now.size_bytes <= left
        ]
        if not gains:
            return chosen
        _, row, option = max(gains, key=lambda gain: gain[0])
        left -= option.size_bytes - chosen[row].size_bytes
        chosen[row] = option
