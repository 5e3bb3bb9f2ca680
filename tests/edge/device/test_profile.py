"""Devices told apart by trees of /proc, /sys and /etc as they are found on them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge.device.cpu_load import num_usable_cores
from edge.device.profile import read_profile

RELEASE = (
    "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, "
    "DATE: Wed Jan  8 01:49:37 UTC 2025\n"
)
NVPMODEL = """
< PARAM TYPE=FILE NAME=CPU_ONLINE >
< POWER_MODEL ID=0 NAME=15W >
CPU_ONLINE CORE_0 1
< POWER_MODEL ID=1 NAME=25W >
< POWER_MODEL ID=2 NAME=MAXN_SUPER >
< PM_CONFIG DEFAULT=1 >
"""


def _tree(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def _jetson(root: Path, mode: str = "pmode:0001 fmode:quiet\n") -> Path:
    return _tree(
        root,
        **{
            "proc__device-tree__model": "NVIDIA Jetson Orin Nano Engineering Reference\0",
            "etc__nv_tegra_release": RELEASE,
            "var__lib__nvpmodel__status": mode,
            "etc__nvpmodel.conf": NVPMODEL,
        },
    )


def test_a_jetson_is_known_by_its_release_and_mode(tmp_path: Path) -> None:
    found = read_profile(_jetson(tmp_path))
    assert (found.kind, found.l4t, found.jetpack) == ("jetson", "36.4.3", "6")
    assert found.model == "NVIDIA Jetson Orin Nano Engineering Reference"
    assert found.unified_memory
    assert found.power_mode is not None and found.power_mode.name == "25W"
    (advice,) = found.advice()
    assert "25W" in advice and "nvpmodel" in advice


def test_the_largest_power_mode_needs_no_advice(tmp_path: Path) -> None:
    found = read_profile(_jetson(tmp_path, "pmode:0002\n"))
    assert found.power_mode is not None and found.power_mode.name == "MAXN_SUPER"
    assert found.advice() == []


def test_an_old_jetpack_is_told_of_its_python(tmp_path: Path) -> None:
    old = RELEASE.replace("R36", "R35").replace("4.3", "5.0")
    found = read_profile(_tree(tmp_path, etc__nv_tegra_release=old))
    assert (found.kind, found.l4t, found.jetpack) == ("jetson", "35.5.0", "5")
    assert found.power_mode is None and "Python" in found.advice()[0]


def test_a_container_on_a_jetson_lacks_etc_and_is_known_by_the_device_tree(tmp_path: Path) -> None:
    found = read_profile(_tree(tmp_path, **{"proc__device-tree__model": "NVIDIA Jetson AGX\0"}))
    assert (found.kind, found.l4t, found.advice()) == ("jetson", "", [])


def test_a_raspberry_pi_is_known_by_the_device_tree(tmp_path: Path) -> None:
    name = "Raspberry Pi 5 Model B Rev 1.0"
    found = read_profile(_tree(tmp_path, **{"proc__device-tree__model": name + "\0"}))
    assert (found.kind, found.model, found.unified_memory) == ("raspberry-pi", name, True)


@pytest.mark.parametrize(("chassis", "kind"), [("10", "laptop"), ("31", "laptop"), ("3", "other")])
def test_a_laptop_is_known_by_its_chassis(tmp_path: Path, chassis: str, kind: str) -> None:
    dmi = {"chassis_type": chassis, "sys_vendor": "Maker", "product_name": "Book 13"}
    _tree(tmp_path, **{f"sys__class__dmi__id__{name}": text for name, text in dmi.items()})
    found = read_profile(tmp_path)
    assert (found.kind, found.model, found.unified_memory) == (kind, "Maker Book 13", False)


def test_without_a_chassis_a_battery_tells_and_that_of_a_mouse_does_not(tmp_path: Path) -> None:
    _tree(
        tmp_path,
        sys__class__power_supply__mouse__type="Battery\n",
        sys__class__power_supply__mouse__scope="Device\n",
    )
    assert read_profile(tmp_path).kind == "other"
    _tree(tmp_path, sys__class__power_supply__BAT0__type="Battery\n")
    assert read_profile(tmp_path).kind == "laptop"


def test_a_machine_that_tells_nothing_is_something_else(tmp_path: Path) -> None:
    found = read_profile(tmp_path)
    assert (found.kind, found.model, found.advice()) == ("other", "", [])


def _capacities(root: Path, *values: int) -> Path:
    for number, value in enumerate(values):
        _tree(root, **{f"sys__devices__system__cpu__cpu{number}__cpu_capacity": f"{value}\n"})
    return root


def test_small_cores_of_a_big_little_pair_do_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.device.cpu_load.psutil.cpu_count", lambda logical: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    assert num_usable_cores(tmp_path) == 8
    assert num_usable_cores(_capacities(tmp_path, *[380] * 4, *[1024] * 4)) == 4
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2})
    assert num_usable_cores(tmp_path) == 3, "of small ones alone all count"
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 4})
    assert num_usable_cores(tmp_path) == 1
