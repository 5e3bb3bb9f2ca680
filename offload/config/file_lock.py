"""File locks between processes; a process that dies gives its locks back.

POSIX has flock. Windows has none: there one byte far behind the end of the file is locked, whose
wait ends after ten tries a second apart, so that waiting is tried again.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from backbone.files import open_private

if sys.platform != "win32":
    import fcntl

_FAR = 1 << 30


@contextlib.contextmanager
def turn(path: Path) -> Iterator[None]:
    """Hold the lock on a file while the block runs, so that processes change what it guards in
    turn; the file is made, private, where there is none.
    """
    descriptor = open_private(path, os.O_RDWR | os.O_CREAT)
    try:
        lock(descriptor, wait=True)
        yield
    finally:
        os.close(descriptor)


def lock(descriptor: int, *, wait: bool) -> bool:
    """Lock an open file for this process alone; return whether that was had, without waiting.

    With `wait` it is had in the end. Closing the file gives it back.
    """
    if sys.platform == "win32":
        import msvcrt

        return lock_a_byte(descriptor, msvcrt.locking, wait=wait)
    return _flock(descriptor, wait=wait)


def _flock(descriptor: int, *, wait: bool) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


_TRY_LONG, _TRY_ONCE = 1, 2  # msvcrt.LK_LOCK and LK_NBLCK


def lock_a_byte(descriptor: int, locking: Callable[[int, int, int], None], *, wait: bool) -> bool:
    """Lock as Windows does, by `msvcrt.locking`."""
    while True:
        os.lseek(descriptor, _FAR, os.SEEK_SET)
        try:
            locking(descriptor, _TRY_LONG if wait else _TRY_ONCE, 1)
        except OSError:
            if not wait:
                return False
        else:
            return True
