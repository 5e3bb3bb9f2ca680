"""How many of this process's cores others keep busy, from the counters of the kernel."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import psutil

BusySeconds = Callable[[], tuple[float, float]]


class OthersLoad:
    """Tells, at each call, the cores that other processes used on average since the last call.

    None where too little time went by to tell, since the kernel counts in hundredths of a second,
    and where this process may use other cores than before.
    """

    def __init__(
        self,
        *,
        counters: BusySeconds | None = None,
        allowed: Callable[[], frozenset[int] | None] = lambda: allowed_cores(),
        clock: Callable[[], float] = time.monotonic,
        shortest_s: float = 0.05,
    ) -> None:
        self._counters = counters or busy_seconds
        self._allowed_now, self._allowed = allowed, allowed()
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
        allowed, (busy, own) = self._allowed_now(), self._counters()
        others = (busy - self._all) - (own - self._own)
        same = allowed == self._allowed
        self._then, self._all, self._own, self._allowed = now, busy, own, allowed
        return max(0.0, others / elapsed) if same else None


def allowed_cores() -> frozenset[int] | None:
    """Return the cores that this process may run on, None where the system does not say."""
    return frozenset(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def busy_seconds() -> tuple[float, float]:
    """Return the seconds that the cores of this process were busy, and its own part of them."""
    allowed = allowed_cores()
    rows = psutil.cpu_times(percpu=True)
    mine = [row for index, row in enumerate(rows) if allowed is None or index in allowed]
    own = psutil.Process().cpu_times()
    return sum(_busy(row) for row in mine), own.user + own.system


def _busy(row: object) -> float:
    # Guest time is already part of user time; idle and waiting for a disk leave the core free.
    names = ("user", "nice", "system", "irq", "softirq", "steal")
    return sum(float(getattr(row, name, 0.0)) for name in names)
