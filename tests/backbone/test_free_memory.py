from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from backbone.process_limits import free_memory_bytes


def _write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


def test_without_a_limit_it_is_what_the_machine_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=12_345))
    assert free_memory_bytes(tmp_path) == 12_345
    _write(tmp_path / "sys/fs/cgroup", memory__max="max\n", memory__current="5\n")
    assert free_memory_bytes(tmp_path) == 12_345


def test_cgroup_v2_limits_and_its_cache_counts_as_free(tmp_path: Path) -> None:
    _write(
        tmp_path / "sys/fs/cgroup",
        memory__max="1000\n",
        memory__current="700\n",
        memory__stat="anon 100\ninactive_file 50\n",
    )
    assert free_memory_bytes(tmp_path) == 350


def test_cgroup_v1_limits(tmp_path: Path) -> None:
    _write(
        tmp_path / "sys/fs/cgroup/memory",
        memory__limit_in_bytes="1000\n",
        memory__usage_in_bytes="2000\n",
    )
    assert free_memory_bytes(tmp_path) == 0


def _in_group(root: Path, lines: str) -> None:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(lines)


@pytest.mark.parametrize("limits", [(2000, 900), (900, 2000)])
def test_the_limit_of_the_own_group_and_of_each_parent_holds(
    tmp_path: Path, limits: tuple[int, int]
) -> None:
    _in_group(tmp_path, "0::/system.slice/nearfar.service\n")
    for folder, limit in zip(("system.slice", "system.slice/nearfar.service"), limits, strict=True):
        _write(
            tmp_path / "sys/fs/cgroup" / folder,
            memory__max=f"{limit}\n",
            memory__current="400\n",
        )
    assert free_memory_bytes(tmp_path) == 500


def test_the_group_of_a_container_without_a_namespace_is_found_at_the_root(tmp_path: Path) -> None:
    _in_group(tmp_path, "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n0::/\n")
    _write(
        tmp_path / "sys/fs/cgroup/memory",
        memory__limit_in_bytes="1000\n",
        memory__usage_in_bytes="300\n",
    )
    assert free_memory_bytes(tmp_path) == 700


def test_the_own_group_of_version_1_holds(tmp_path: Path) -> None:
    _in_group(tmp_path, "4:memory:/jobs/7\n")
    _write(
        tmp_path / "sys/fs/cgroup/memory/jobs/7",
        memory__limit_in_bytes="1000\n",
        memory__usage_in_bytes="600\n",
    )
    assert free_memory_bytes(tmp_path) == 400


@pytest.mark.parametrize("lines", ["", "garbage", "0::/../../etc\n", "0::\n", ":::::\n"])
def test_a_damaged_list_of_groups_is_no_limit(tmp_path: Path, lines: str) -> None:
    _in_group(tmp_path, lines)
    assert free_memory_bytes(tmp_path) > 1_000_000
