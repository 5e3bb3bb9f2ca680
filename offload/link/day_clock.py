"""Which day it is, for budgets that a clock set forward or back must not give anew."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

DAY_S = 86_400
_DRIFT_S = 3600.0  # by so much a clock may be set while we run, and is followed


def steady_s() -> float:
    """Return seconds that only go forward, at the same pace while the machine sleeps."""
    if sys.platform == "linux":
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    if sys.platform == "darwin":  # where time.monotonic stands still in sleep
        return time.clock_gettime(time.CLOCK_MONOTONIC)
    return time.monotonic()


class Days:
    """The time since 1970 by the wall's clock, as long as that moves as time passes."""

    def __init__(
        self, wall: Callable[[], float] = time.time, clock: Callable[[], float] = steady_s
    ) -> None:
        self._wall, self._clock = wall, clock
        self._wall_s, self._clock_s = wall(), clock()
        self._day = int(self._wall_s // DAY_S)

    def now_s(self) -> float:
        """Return the time; a clock that was set by hours is not followed."""
        wall_s, clock_s = self._wall(), self._clock()
        expected_s = self._wall_s + clock_s - self._clock_s
        if abs(wall_s - expected_s) > _DRIFT_S:
            return expected_s
        self._wall_s, self._clock_s = wall_s, clock_s
        return wall_s

    def today(self) -> int:
        """Return the day of UTC since 1970; once a day has come, none before it comes again."""
        self._day = max(self._day, int(self.now_s() // DAY_S))
        return self._day

    def left_s(self) -> float:
        """Return the seconds until the next day."""
        return (self.today() + 1) * DAY_S - self.now_s()
