"""Memory that was freed and that the C library keeps: given back to the system.

glibc takes large pieces from the system and returns them when they are freed, but raises what it
calls large to the largest piece that was ever freed, up to 32 MB. The tensors of a step then come
from its heap, and stay there: for a model of 100M parameters more than twice what a step needs was
seen to be kept. To take all of them from the system each time costs a third of a step's time.
"""

from __future__ import annotations

import ctypes
import sys

_M_MMAP_THRESHOLD = -3  # malloc.h
# Bytes. A small model's tensors stay in the heap, where they cost least and are not many.
_LARGE = 4 << 20


def keep_little() -> None:
    """Let large tensors go back to the system when they are freed, where the C library is glibc."""
    if sys.platform == "linux":
        tune = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
        if tune is not None:
            tune(_M_MMAP_THRESHOLD, _LARGE)


def give_back() -> None:
    """Return the free pages of the heap to the system, where the C library is glibc.

    It keeps pieces of a few megabytes for later, which a model's separate projections are.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
        if trim is not None:
            trim(0)
