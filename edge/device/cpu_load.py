"""CPU cores: how many this process may use, and how many of them other processes keep busy."""

from __future__ import annotations

import contextlib
import math
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from backbone.process_limits import cpu_quota
from edge.device import profile
from edge.device.profile import Sysctl

FAST = 0.75  # of the largest capacity; the small cores of a big.LITTLE pair have less than half


def num_usable_cores(root: Path = Path("/"), *, sysctl: Sysctl = profile.sysctl) -> int:
    """Return the fast cores within the affinity mask and the cgroup's CPU quota, at least 1.

    `root` is where /sys is found, `sysctl` reads macOS's table. Two hardware threads of one core
    share its arithmetic units, so they count once. Of cores of two kinds only the larger count: a
    step waits for the slowest.
    """
    logical = os.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else logical
    physical = psutil.cpu_count(logical=False) or logical
    counts = [allowed, physical, *_fast_cores(root)]
    if (quota := cpu_quota(root)) is not None:
        counts.append(math.ceil(quota))
    if (quick := profile.performance_cores(sysctl)) is not None:
        counts.append(quick)
    return max(1, min(counts))


def _fast_cores(root: Path) -> list[int]:
    """Return how many cores have nearly the largest capacity; [] where the kernel does not say."""
    folder = root / "sys/devices/system/cpu"
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    capacities = []
    for path in folder.glob("cpu[0-9]*/cpu_capacity"):
        if allowed is None or int(path.parent.name.removeprefix("cpu")) in allowed:
            with contextlib.suppress(OSError, ValueError):
                capacities.append(int(path.read_text()))
    fast = sum(capacity >= FAST * max(capacities) for capacity in capacities)
    return [fast] if fast else []


class UsableCores:
    """Tells the usable cores, counted anew every few seconds: quotas and affinity masks change."""

    def __init__(
        self,
        *,
        count: Callable[[], int] | None = None,
        clock: Callable[[], float] = time.monotonic,
        every_s: float = 2.0,
    ) -> None:
        self._count = count or num_usable_cores
        self._clock, self._every_s = clock, every_s
        self._counted, self._value = clock(), self._count()

    def __call__(self) -> int:
        """Return the cores."""
        if (now := self._clock()) >= self._counted + self._every_s:
            self._counted, self._value = now, self._count()
        return self._value


BusySeconds = Callable[[], tuple[float, float]]


class OthersLoad:
    """Load by others: at each call, the cores that other processes used since the last one.

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


BUSY_SHARE = 0.1  # of the cores: what a desktop does by itself stays below
WIDE_SPREAD = 0.15  # of the median, from the slowest run to the quickest


class Disturbance:
    """Disturbance of a measurement by other processes, watched from its making on."""

    def __init__(self, others: OthersLoad | None = None, *, num_cores: int = 0) -> None:
        self._others = others or OthersLoad()
        self._num_cores = num_cores or num_usable_cores()

    def busy_cores(self) -> float:
        """Return the cores that others kept busy, on average, since the last call."""
        return self._others() or 0.0

    def warning(self, busy_cores: float, spreads: Sequence[float]) -> str | None:
        """Return one line that says why timings are not to be trusted, None where they may be."""
        if busy_cores > BUSY_SHARE * self._num_cores:
            return (
                f"other programs kept {busy_cores:.1f} of {self._num_cores} cores busy meanwhile: "
                "the tokens/s are too low; measure again when the machine is idle"
            )
        if (widest := max(spreads, default=0.0)) > WIDE_SPREAD:
            return (
                f"repeated runs lie {widest:.0%} apart: the tokens/s are not steady; "
                "measure again when the machine is idle and cool"
            )
        return None


def spread(values: Sequence[float]) -> float:
    """Return how far the values lie apart, as a share of their median; 0 for fewer than two."""
    return (max(values) - min(values)) / statistics.median(values) if len(values) > 1 else 0.0
