"""How many cores this process may use: its affinity, its quota, and cores rather than threads."""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path

import psutil

from edge.device import apple
from edge.device.apple import Sysctl

FAST = 0.75  # of the largest capacity; the small cores of a big.LITTLE pair have less than half


def num_usable_cores(root: Path = Path("/"), *, sysctl: Sysctl = apple.sysctl) -> int:
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
    if (quick := apple.performance_cores(sysctl)) is not None:
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


def cpu_quota(root: Path = Path("/")) -> float | None:
    """Return the cores that the cgroup grants (2.5 is two and a half), None for no limit."""
    try:  # cgroup v2: "250000 100000" or "max 100000"
        quota, period = (root / "sys/fs/cgroup/cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return _quota_v1(root / "sys/fs/cgroup/cpu")


def _quota_v1(folder: Path) -> float | None:
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        period = int((folder / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return None
    return quota / period if quota > 0 and period > 0 else None
