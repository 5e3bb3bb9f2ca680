"""How much memory this process may still take: the machine's, within the cgroup's limit."""

from __future__ import annotations

from pathlib import Path

import psutil


def free_memory_bytes(root: Path = Path("/")) -> int:
    """Return the bytes that can be had without swapping; `root` is where /sys is found."""
    free = int(psutil.virtual_memory().available)
    left = [left for left in (_left_v2(root), _left_v1(root)) if left is not None]
    return max(0, min([free, *left]))


def _left_v2(root: Path) -> int | None:
    folder = root / "sys/fs/cgroup"
    return _left(
        folder / "memory.max", folder / "memory.current", folder / "memory.stat", "inactive_file"
    )


def _left_v1(root: Path) -> int | None:
    folder = root / "sys/fs/cgroup/memory"
    return _left(
        folder / "memory.limit_in_bytes",
        folder / "memory.usage_in_bytes",
        folder / "memory.stat",
        "total_inactive_file",
    )


def _left(limit: Path, used: Path, stat: Path, cache_name: str) -> int | None:
    """Return limit less use; None for no limit. Cached files count as free: they can go."""
    try:
        return int(limit.read_text()) - int(used.read_text()) + _stat(stat, cache_name)
    except (OSError, ValueError):  # no such cgroup, or the limit is "max"
        return None


def _stat(path: Path, name: str) -> int:
    try:
        rows = (line.split() for line in path.read_text().splitlines())
        return next((int(row[1]) for row in rows if row and row[0] == name), 0)
    except (OSError, ValueError, IndexError):
        return 0
