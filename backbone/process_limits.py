"""Process limits: memory and open files that this process may have, within its control groups.

A limit of any of them holds, so each is read, from the process's own up to the root of the mount
(cgroups(7); Documentation/admin-guide/cgroup-v2.rst of the kernel).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import psutil


def unified(root: Path) -> list[Path]:
    """Return the folders of version 2, the process's own first; `root` is where /sys is found."""
    return list(_folders(root, "", root / "sys/fs/cgroup"))


def controlled(root: Path, controller: str) -> list[Path]:
    """Return the folders of a controller of version 1, such as `memory`, the own one first."""
    return list(_folders(root, controller, root / "sys/fs/cgroup" / controller))


def cpu_quota(root: Path = Path("/")) -> float | None:
    """Return the cores that the cgroups grant (2.5 is two and a half), None for no limit."""
    quotas = [_quota_v2(folder) for folder in unified(root)]
    quotas += [_quota_v1(folder) for folder in controlled(root, "cpu")]
    return min((quota for quota in quotas if quota is not None), default=None)


def _folders(root: Path, controller: str, mount: Path) -> Iterator[Path]:
    own = _own(root, controller)
    for place in (own, *own.parents):
        # Inside a container the mount may show its own group as the root: then only that is there.
        if (folder := mount.joinpath(*place.parts[1:])).is_dir():
            yield folder


def _own(root: Path, controller: str) -> PurePosixPath:
    """Return the group's path in its hierarchy; version 2 has no controllers named."""
    try:
        lines = (root / "proc/self/cgroup").read_text(errors="replace").splitlines()
    except OSError:
        return PurePosixPath("/")
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controller in controllers.split(",") and ".." not in path.split("/"):
            return PurePosixPath("/", path.lstrip("/"))
    return PurePosixPath("/")


def _quota_v2(folder: Path) -> float | None:
    try:  # "250000 100000" or "max 100000"
        quota, period = (folder / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _quota_v1(folder: Path) -> float | None:
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        period = int((folder / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return None
    return quota / period if quota > 0 and period > 0 else None


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


WANTED_FILES = 65_536


def raise_open_files() -> int:
    """Raise the limit of open files as far as the system allows, within reason; return it."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows, whose sockets are no files
        return WANTED_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED_FILES if hard == resource.RLIM_INFINITY else min(hard, WANTED_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):  # a system with a lower limit of its own
            wanted = soft
        soft = wanted
    return WANTED_FILES if soft == resource.RLIM_INFINITY else soft
