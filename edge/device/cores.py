"""How many cores this process may use: its affinity, its quota, and cores rather than threads."""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path

import psutil

from backbone.cgroup import cpu_quota
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
