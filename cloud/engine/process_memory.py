"""What this process holds of the machine's memory, now and at its peak."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_STATUS = Path("/proc/self/status")
_WATCH_S = 0.0005


def is_told() -> bool:
    """Whether this system tells it."""
    return _STATUS.is_file()


def resident_bytes() -> int:
    """Return this process's own memory: anonymous pages that are resident."""
    lines = _STATUS.read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


@contextmanager
def watched() -> Iterator[list[int]]:
    """Watch resident memory while the block runs; the list's largest is the peak, in bytes."""
    seen, done = [resident_bytes()], threading.Event()

    def watch() -> None:
        while not done.wait(_WATCH_S):
            seen.append(resident_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield seen
    finally:
        done.set()
        watcher.join()
        seen.append(resident_bytes())
