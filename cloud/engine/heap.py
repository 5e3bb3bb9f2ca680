"""Memory that was freed and that the C library keeps: given back to the system."""

from __future__ import annotations

import ctypes
import sys


def give_back() -> None:
    """Return the free pages of the heap to the system, where the C library is glibc.

    It keeps pieces of a few megabytes for later, which a model's separate projections are.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
        if trim is not None:
            trim(0)
