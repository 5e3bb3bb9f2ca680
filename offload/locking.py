"""Locks on files between processes; a process that dies gives its locks back.

POSIX has flock. Windows has none: there one byte far behind the end of the file is locked, whose
wait ends after ten tries a second apart, so that waiting is tried again.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import cast

if sys.platform != "win32":
    import fcntl

# Opened without it, a file on Windows has every line feed written as two characters.
BINARY = cast(int, getattr(os, "O_BINARY", 0))
_FAR = 1 << 30


def open_private(path: str | os.PathLike[str], flags: int) -> int:
    """Open a file as `os.open` does, for bytes and, if it is made here, for its owner alone."""
    return os.open(path, flags | BINARY, 0o600)


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
