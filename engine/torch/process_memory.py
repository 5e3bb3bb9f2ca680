"""The memory of this process: what is resident, its peak, and what glibc keeps after it was freed.

glibc takes large pieces from the system and returns them when they are freed, but raises what it
calls large to the largest piece that was ever freed, up to 32 MB. The tensors of a step then come
from its heap, and stay there: for a model of 100M parameters more than twice what a step needs was
seen to be kept. To take all of them from the system each time costs a third of a step's time.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_STATUS = Path("/proc/self/status")
_WATCH_S = 0.0005


def is_measurable() -> bool:
    """Whether this system reports what is resident."""
    return _STATUS.is_file()


def resident_bytes() -> int:
    """Return this process's own memory: anonymous pages that are resident."""
    lines = _STATUS.read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


@contextmanager
def watch_memory() -> Iterator[list[int]]:
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


_M_MMAP_THRESHOLD = -3  # malloc.h
# Bytes. A small model's tensors stay in the heap, where they cost least and are not many.
_LARGE = 4 << 20


def return_large_pieces() -> None:
    """Let large tensors go back to the system when they are freed, where the C library is glibc."""
    if sys.platform == "linux":
        tune = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
        if tune is not None:
            tune(_M_MMAP_THRESHOLD, _LARGE)


def trim_heap() -> None:
    """Return the free pages of the heap to the system, where the C library is glibc.

    It keeps pieces of a few megabytes for later, which a model's separate projections are.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
        if trim is not None:
            trim(0)
