"""Usage store: what each device used on a day, in an SQLite file that outlives the process.

Each use is added to what stands there, so that several processes may share the file.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from backbone.errors import cause
from offload.config.obstacles import obstacle
from offload.errors import SettingsError

_BUSY_S = 0.05  # it is written from event loops, which must not wait long
_KEPT_DAYS = 31
_TABLE = """
CREATE TABLE IF NOT EXISTS used (
    name TEXT NOT NULL, day INTEGER NOT NULL, requests INTEGER NOT NULL, tokens INTEGER NOT NULL,
    PRIMARY KEY (name, day)
) WITHOUT ROWID
"""
_ADD = """
INSERT INTO used VALUES (?, ?, ?, ?) ON CONFLICT (name, day)
DO UPDATE SET requests = requests + excluded.requests, tokens = tokens + excluded.tokens
"""


class DayUse(NamedTuple):
    """Day's use of one device."""

    requests: int = 0
    tokens: int = 0


class UsageStore:
    """Store of each day's use; its file is open from the first `add` to `close`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open: sqlite3.Connection | None = None

    def read(self, day: int) -> dict[str, DayUse]:
        """Return everybody's use of a day since 1970. Raises SettingsError for a damaged file."""
        if not self.path.exists():
            return {}
        try:
            with contextlib.closing(_connect(self.path)) as file:
                rows = file.execute("SELECT name, requests, tokens FROM used WHERE day = ?", (day,))
                return {name: DayUse(requests, tokens) for name, requests, tokens in rows}
        except sqlite3.Error as error:
            raise SettingsError(
                f"{self.path} is damaged ({cause(error)}); move it away to count the day anew"
            ) from None
        except OSError as error:
            raise SettingsError(
                f"{self.path} cannot be read: {obstacle(self.path, error)}"
            ) from None

    def add(self, day: int, uses: Mapping[str, DayUse]) -> dict[str, DayUse]:
        """Add to a day, and return what those have used by now, here and in other processes.

        Raises OSError or sqlite3.Error where that cannot be written now.
        """
        with self._transaction() as file:
            file.executemany(_ADD, [(name, day, *use) for name, use in uses.items()])
            totals = {}
            for name in uses:
                query = "SELECT requests, tokens FROM used WHERE name = ? AND day = ?"
                totals[name] = DayUse(*file.execute(query, (name, day)).fetchone())
        return totals

    def close(self) -> None:
        """Close the file; the next `add` opens it again."""
        if self._open is not None:
            self._open.close()
            self._open = None

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        if self._open is None:
            self._open = _connect(self.path)
        with self._open as file:
            yield file


def _connect(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # names of keys are nobody's business
    file = sqlite3.connect(path, timeout=_BUSY_S, check_same_thread=False)
    try:
        # What was written outlives the process, and all but the last moment a power cut.
        file.execute("PRAGMA journal_mode = WAL")
        file.execute("PRAGMA synchronous = NORMAL")
        with file:
            file.execute(_TABLE)
            # By count and not by age: a clock that is ahead would make all of them old.
            newest = "SELECT DISTINCT day FROM used ORDER BY day DESC LIMIT ?"
            file.execute(f"DELETE FROM used WHERE day NOT IN ({newest})", (_KEPT_DAYS,))
    except BaseException:
        file.close()
        raise
    return file


DAY_S = 86_400
_DRIFT_S = 3600.0  # by so much a clock may be set while we run, and is followed


def steady_s() -> float:
    """Return seconds that only go forward, at the same pace while the machine sleeps."""
    if sys.platform == "linux":
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    if sys.platform == "darwin":  # where time.monotonic stands still in sleep
        return time.clock_gettime(time.CLOCK_MONOTONIC)
    return time.monotonic()


class DayClock:
    """Clock of days: the wall's time, followed as long as it moves as time passes."""

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
