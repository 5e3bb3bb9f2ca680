"""Memory: how much this process may still take within its cgroups, and whether it ran out."""

from __future__ import annotations

from pathlib import Path

import psutil

from backbone.cgroup import controlled, unified

_NO_MEMORY_WORDS = ("can't allocate memory", "can't start new thread")

# Of each version: the limit, what is used, and which of that are cached files.
_V2 = ("memory.max", "memory.current", "inactive_file")
_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def free_memory_bytes(root: Path = Path("/")) -> int:
    """Return the bytes that can be had without swapping; `root` is where /sys is found."""
    left = [_left(folder, *_V2) for folder in unified(root)]
    left += [_left(folder, *_V1) for folder in controlled(root, "memory")]
    free = int(psutil.virtual_memory().available)
    return max(0, min([free, *(each for each in left if each is not None)]))


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether the GPU's or the machine's memory ran out.

    torch, which need not be installed, has a kind of its own for a GPU; on a CPU it says so in
    words alone, as Python does for a thread.
    """
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return bool(kinds & {"OutOfMemoryError", "MemoryError"}) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY_WORDS)
    )


def _left(folder: Path, limit: str, used: str, cache: str) -> int | None:
    """Return limit less use; None for no limit. Cached files count as free: they can go."""
    try:
        allowed, taken = ((folder / name).read_text() for name in (limit, used))
        return int(allowed) - int(taken) + _stat(folder / "memory.stat", cache)
    except (OSError, ValueError):  # no such cgroup, or the limit is "max"
        return None


def _stat(path: Path, name: str) -> int:
    try:
        rows = (line.split() for line in path.read_text().splitlines())
        return next((int(row[1]) for row in rows if row and row[0] == name), 0)
    except (OSError, ValueError, IndexError):
        return 0
