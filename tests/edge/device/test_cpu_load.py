from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge.device.cpu_load import UsableCores, cpu_quota, num_usable_cores


def _v2(root: Path, text: str) -> Path:
    (root / "sys/fs/cgroup").mkdir(parents=True)
    (root / "sys/fs/cgroup/cpu.max").write_text(text)
    return root


@pytest.mark.parametrize(
    ("text", "cores"),
    [("max 100000\n", None), ("250000 100000\n", 2.5), ("50000 100000\n", 0.5), ("what\n", None)],
)
def test_quota_of_cgroup_v2(tmp_path: Path, text: str, cores: float | None) -> None:
    assert cpu_quota(_v2(tmp_path, text)) == cores


@pytest.mark.parametrize(("quota", "cores"), [("-1", None), ("150000", 1.5)])
def test_quota_of_cgroup_v1(tmp_path: Path, quota: str, cores: float | None) -> None:
    folder = tmp_path / "sys/fs/cgroup/cpu"
    folder.mkdir(parents=True)
    (folder / "cpu.cfs_quota_us").write_text(quota + "\n")
    (folder / "cpu.cfs_period_us").write_text("100000\n")
    assert cpu_quota(tmp_path) == cores


def test_without_cgroups_there_is_no_quota(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) is None


def test_cores_are_the_fewest_of_affinity_quota_and_hardware(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.device.cpu_load.psutil.cpu_count", lambda logical: 6)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    assert num_usable_cores(tmp_path) == 6
    assert num_usable_cores(_v2(tmp_path, "250000 100000")) == 3
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {5})
    assert num_usable_cores(tmp_path) == 1


def test_there_is_always_one_core(tmp_path: Path) -> None:
    assert num_usable_cores(_v2(tmp_path, "1000 100000")) == 1


def test_a_quota_of_half_a_core_leaves_one_thread(tmp_path: Path) -> None:
    assert num_usable_cores(_v2(tmp_path, "50000 100000")) == 1


def test_cores_are_counted_again_every_few_seconds() -> None:
    now, count = [0.0], [2]
    cores = UsableCores(count=lambda: count[0], clock=lambda: now[0], every_s=2.0)
    count[0] = 1
    assert cores() == 2, "counting reads files"
    now[0] = 2.0
    assert cores() == 1
