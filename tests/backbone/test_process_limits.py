"""The quota of the processors is the least of the process's own cgroup and its parents."""

from __future__ import annotations

from pathlib import Path

import pytest

from backbone.process_limits import cpu_quota


@pytest.mark.parametrize(
    ("own", "parent", "cores"),
    [
        ("150000 100000", "max 100000", 1.5),
        ("max 100000", "50000 100000", 0.5),
        ("400000 100000", "250000 100000", 2.5),
        ("max 100000", "max 100000", None),
        ("100000 0", "what", None),
    ],
)
def test_the_quota_is_the_least_of_the_groups(
    tmp_path: Path, own: str, parent: str, cores: float | None
) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/system.slice/nearfar.service\n")
    folder = tmp_path / "sys/fs/cgroup/system.slice/nearfar.service"
    folder.mkdir(parents=True)
    (folder / "cpu.max").write_text(own)
    (folder.parent / "cpu.max").write_text(parent)
    assert cpu_quota(tmp_path) == cores


def test_the_own_group_of_version_1_holds(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("3:cpu,cpuacct:/jobs\n")
    folder = tmp_path / "sys/fs/cgroup/cpu/jobs"
    folder.mkdir(parents=True)
    (folder / "cpu.cfs_quota_us").write_text("150000")
    (folder / "cpu.cfs_period_us").write_text("100000")
    assert cpu_quota(tmp_path) == 1.5
