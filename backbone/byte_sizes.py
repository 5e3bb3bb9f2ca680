"""Numbers of bytes in words."""

from __future__ import annotations


def readable(num_bytes: float) -> str:
    """Return the bytes in the unit that fits: 3 B, 12.3 kB, 4.56 MB, 7.89 GB."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= size:
            return f"{num_bytes / size:.3g} {unit}"
    return f"{num_bytes:.0f} B"
