"""How many of this process's cores others keep busy, from the counters of the kernel."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import psutil

BusySeconds = Callable[[], tuple[float, float]]


class OthersLoad:
    """Tells, at each call, the cores that other processes used on average since the last call.

    None where too little time went by to tell: the kernel counts in hundredths of a second.
    """

    def __init__(
        self,
        *,
        counters: BusySeconds | None = None,
        clock: Callable[[], float] = time.monotonic,
        shortest_s: float = 0.05,
    ) -> None:
        self._counters = counters or busy_seconds
        self._clock = clock
        self._shortest_s = shortest_s
        self._then = clock()
        self._all, self._own = self._counters()

    def __call__(self) -> float | None:
        """Return busy cores of others, or None."""
        now = self._clock()
        elapsed = now - self._then
        if elapsed < self._shortest_s:
            return None
        busy, own = self._counters()
        others = (busy - self._all) - (own - self._own)
        self._then, self._all, self._own = now, busy, own
        return max(0.0, others / elapsed)


def recent_load() -> float:
    """Return the processes that ran or waited to run in the last minute, on average.

    A guess at what others use, for the moment before they have been watched.
    """
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def busy_seconds() -> tuple[float, float]:
    """Return the seconds that the cores of this process were busy, and its own part of them."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    rows = psutil.cpu_times(percpu=True)
    mine = [row for index, row in enumerate(rows) if allowed is None or index in allowed]
    own = psutil.Process().cpu_times()
    return sum(_busy(row) for row in mine), own.user + own.system


def _busy(row: object) -> float:
    # Guest time is already part of user time; idle and waiting for a disk leave the core free.
    names = ("user", "nice", "system", "irq", "softirq", "steal")
    return sum(float(getattr(row, name, 0.0)) for name in names)
