from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from edge.device.memory import free_memory_bytes


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
