"""What macOS tells of a Mac: its chip, and how many of its cores are the quick ones.

Source: sysctl(3), and Apple's list of `hw.perflevel0` (the performance cores of Apple silicon).
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable

Sysctl = Callable[[str], bytes]


def sysctl(name: str) -> bytes:
    """Return a value of the kernel's table as it lies in memory, b"" where there is none."""
    if sys.platform != "darwin":
        return b""
    lib = ctypes.CDLL(None)
    size, key = ctypes.c_size_t(0), name.encode()
    if lib.sysctlbyname(key, None, ctypes.byref(size), None, ctypes.c_size_t(0)) != 0:
        return b""
    buffer = ctypes.create_string_buffer(size.value)
    if lib.sysctlbyname(key, buffer, ctypes.byref(size), None, ctypes.c_size_t(0)) != 0:
        return b""
    return buffer.raw[: size.value]


def chip(read: Sysctl = sysctl) -> str:
    """Return the name of a Mac's processor, such as "Apple M2"; "" on any other machine."""
    return read("machdep.cpu.brand_string").split(b"\0")[0].decode("utf-8", "replace").strip()


def has_own_silicon(read: Sysctl = sysctl) -> bool:
    """Return whether processor and GPU share one memory, on macOS."""
    return _number(read("hw.optional.arm64")) == 1


def performance_cores(read: Sysctl = sysctl) -> int | None:
    """Return how many cores are of the quick kind, None where all are alike or nothing is told."""
    return _number(read("hw.perflevel0.physicalcpu")) or None


def _number(value: bytes) -> int:
    """Read a number of 4 or 8 bytes, which the kernel has both of; 0 for anything else."""
    return int.from_bytes(value, sys.byteorder) if len(value) in (4, 8) else 0
