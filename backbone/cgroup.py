"""Which control groups of Linux this process is in: a systemd service's, a container's, and theirs.

A limit of any of them holds, so each is read, from the process's own up to the root of the mount
(cgroups(7); Documentation/admin-guide/cgroup-v2.rst of the kernel).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath


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
