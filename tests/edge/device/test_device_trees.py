"""Whole devices as their kernels show them: what is read, and what is there and cannot be."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from backbone.process_limits import free_memory_bytes
from edge.device import profile
from edge.device.cpu_load import num_usable_cores
from edge.device.device_pressure import DevicePressure, read_pressure
from edge.device.profile import read_profile

ZONES = "sys/class/thermal/thermal_zone"
CORES = "sys/devices/system/cpu/cpu"
SUPPLY = "sys/class/power_supply"
THROTTLED = "sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled"


def zone(number: int, kind: str, temp: str, *trips: tuple[str, str]) -> dict[str, str]:
    files = {f"{ZONES}{number}/type": kind, f"{ZONES}{number}/temp": temp}
    for place, (trip, degrees) in enumerate(trips):
        files[f"{ZONES}{number}/trip_point_{place}_type"] = trip
        files[f"{ZONES}{number}/trip_point_{place}_temp"] = degrees
    return files


def release(major: int, revision: str) -> str:
    return f"# R{major} (release), REVISION: {revision}, GCID: 1, BOARD: generic, EABI: aarch64"


def modes(*names: str) -> str:
    rows = (f"< POWER_MODEL ID={n} NAME={name} >" for n, name in enumerate(names))
    return "\n".join(("< PARAM TYPE=FILE NAME=CPU_ONLINE >", *rows, "< PM_CONFIG DEFAULT=0 >"))


ORIN_NANO = {
    "proc/device-tree/model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0",
    "etc/nv_tegra_release": release(36, "4.3"),
    "etc/nvpmodel.conf": modes("15W", "25W", "MAXN_SUPER"),
    "var/lib/nvpmodel/status": "pmode:0000 fmode:quiet",
    **zone(0, "cpu-thermal", "51625", ("active", "50000"), ("passive", "99000")),
    **zone(1, "gpu-thermal", "50281", ("passive", "99000"), ("critical", "104500")),
    **zone(2, "cv0-thermal", "-256000", ("passive", "99000")),
    "proc/pressure/memory": "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\nfull avg10=0.00",
}
AGX_ORIN = {
    "proc/device-tree/model": "NVIDIA Jetson AGX Orin Developer Kit\0",
    "etc/nv_tegra_release": release(35, "4.1"),
    "etc/nvpmodel.conf": modes("MAXN", "MODE_15W", "MODE_30W", "MODE_50W"),
    "var/lib/nvpmodel/status": "pmode:0002 fmode:cool",
    **zone(0, "CPU-therm", "99500", ("passive", "99000"), ("critical", "104500")),
    **zone(8, "tj-therm", "99500", ("active", "51000"), ("passive", "99000")),
}
PI_5 = {
    "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
    **zone(0, "cpu-thermal", "61850", ("critical", "110000"), ("active", "50000")),
    THROTTLED: "0",
    "proc/pressure/memory": "some avg10=12.50 avg60=3.10 avg300=1.00 total=99",
    **{f"{CORES}{core}/cpu_capacity": "1024" for core in range(4)},
}
RYZEN = {
    "sys/class/dmi/id/chassis_type": "10",
    "sys/class/dmi/id/sys_vendor": "Maker",
    "sys/class/dmi/id/product_name": "Book 14",
    f"{SUPPLY}/ACAD/type": "Mains",
    f"{SUPPLY}/ACAD/online": "1",
    f"{SUPPLY}/BAT1/type": "Battery",
    f"{SUPPLY}/BAT1/status": "Not charging",
    f"{SUPPLY}/ucsi-source-psy-1/type": "USB",
    f"{SUPPLY}/ucsi-source-psy-1/online": "0",
    **zone(0, "acpitz", "46.5", ("passive", "95.0")),
}


def tree(root: Path, *parts: dict[str, str]) -> Path:
    for files in parts:
        for name, text in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text + "\n")
    return root


@pytest.mark.parametrize(
    ("files", "kind", "mode", "advised", "pressure"),
    [
        (ORIN_NANO, "jetson", "15W", "nvpmodel -m 2", DevicePressure()),
        (AGX_ORIN, "jetson", "MODE_30W", "nvpmodel -m 0", DevicePressure(hot=True)),
        (PI_5, "raspberry-pi", None, None, DevicePressure(short_of_memory=True)),
        (RYZEN, "laptop", None, None, DevicePressure()),
    ],
    ids=["orin nano", "agx orin", "pi 5", "laptop"],
)
def test_a_device_is_known_and_its_strain_is_read(
    tmp_path: Path,
    files: dict[str, str],
    kind: str,
    mode: str | None,
    advised: str | None,
    pressure: DevicePressure,
) -> None:
    found = read_profile(tree(tmp_path, files))
    assert found.kind == kind and "\0" not in found.model
    assert (found.power_mode.name if found.power_mode else None) == mode
    assert (advised is None and not found.advice()) or str(advised) in found.advice()[0]
    assert read_pressure(tmp_path) == pressure


@pytest.mark.parametrize(
    ("names", "largest"),
    [
        (("MAXN", "15W", "30W"), 0),
        (("15W", "7W"), 0),
        (("7W", "15W"), 1),
        (("10W", "15W", "20W"), 2),
        (("MODE_A", "MODE_B"), 0),
    ],
)
def test_the_largest_mode_is_the_one_of_most_watts(
    tmp_path: Path, names: tuple[str, ...], largest: int
) -> None:
    tree(tmp_path, ORIN_NANO, {"etc/nvpmodel.conf": modes(*names)})
    for number in range(len(names)):
        tree(tmp_path, {"var/lib/nvpmodel/status": f"pmode:{number:04}"})
        mode = read_profile(tmp_path).power_mode
        assert mode is not None
        assert (mode.largest, mode.is_largest) == (largest, number == largest)


@pytest.mark.parametrize(("jetpack", "major", "old"), [("7", 38, False), ("4", 32, True)])
def test_only_old_jetpacks_lack_a_new_python(
    tmp_path: Path, jetpack: str, major: int, old: bool
) -> None:
    found = read_profile(tree(tmp_path, {"etc/nv_tegra_release": release(major, "2.0")}))
    assert found.jetpack == jetpack
    assert any("Python" in line for line in found.advice()) == old


@pytest.mark.parametrize(
    ("value", "hot"),
    [("0", False), ("50000", False), ("50005", True), ("4", True), ("0x8", True), ("", False)],
)
def test_a_pi_whose_firmware_slows_it_now_is_spared(tmp_path: Path, value: str, hot: bool) -> None:
    """What its firmware remembers of the past (from bit 16 on) is no reason."""
    assert read_pressure(tree(tmp_path, PI_5, {THROTTLED: value})).hot == hot


ODD = {
    "proc/device-tree/model": "\0\0",
    "etc/nv_tegra_release": "# R (release), REVISION: , GCID",
    "etc/nvpmodel.conf": "< POWER_MODEL ID=x NAME= >",
    "var/lib/nvpmodel/status": "pmode:",
    f"{ZONES}0/temp": "\u00b2",
    f"{ZONES}0/trip_point_0_type": "passive",
    f"{ZONES}0/trip_point_0_temp": "inf",
    f"{SUPPLY}/BAT0/type": "Battery",
    f"{SUPPLY}/BAT0/status": "Unknown",
    "proc/pressure/memory": "some avg10=",
    f"{CORES}0/cpu_capacity": "many",
    "sys/class/dmi/id/chassis_type": "0x0a",
    "sys/fs/cgroup/cpu.max": "max",
    "sys/fs/cgroup/memory.max": "lots",
    THROTTLED: "yes",
}


def test_what_makes_no_sense_weighs_nothing(tmp_path: Path) -> None:
    found = read_profile(tree(tmp_path, ODD))
    assert (found.kind, found.power_mode, found.advice()) == ("laptop", None, [])
    assert read_pressure(tmp_path) == DevicePressure()
    assert num_usable_cores(tmp_path) >= 1 and free_memory_bytes(tmp_path) > 0


@pytest.mark.parametrize("files", [ORIN_NANO, AGX_ORIN, PI_5, RYZEN], ids=list("nagr"))
def test_each_file_alone_may_be_missing(tmp_path: Path, files: dict[str, str]) -> None:
    for number, gone in enumerate(files):
        root = tree(tmp_path / str(number), {n: text for n, text in files.items() if n != gone})
        read_profile(root).advice()
        read_pressure(root)
        assert num_usable_cores(root) >= 1


@pytest.mark.parametrize("code", [errno.EACCES, errno.EAGAIN, errno.EINVAL, errno.ENODATA])
def test_sensors_that_refuse_to_be_read_weigh_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """A powered-down thermal zone answers EAGAIN, a container EACCES; root may read all here."""
    root = tree(tmp_path, ORIN_NANO, AGX_ORIN, PI_5)

    def refused(path: Path, *_: object, **__: object) -> str:
        raise OSError(code, os.strerror(code), str(path))

    monkeypatch.setattr(Path, "read_text", refused)
    assert read_profile(root).kind == "other"
    assert read_pressure(root) == DevicePressure()
    assert num_usable_cores(root) >= 1 and free_memory_bytes(root) > 0


def mac(**values: bytes) -> Callable[[str], bytes]:
    known = {name.replace("__", "."): value for name, value in values.items()}
    return lambda name: known.get(name, b"")


def number(value: int, size: int) -> bytes:
    return value.to_bytes(size, sys.byteorder)


M2 = mac(
    machdep__cpu__brand_string=b"Apple M2 Pro\0",
    hw__optional__arm64=number(1, 4),
    hw__perflevel0__physicalcpu=number(6, 4),
)
INTEL = mac(machdep__cpu__brand_string=b"Intel(R) Core(TM) i7-9750H CPU @ 2.60GHz\0")


def test_a_mac_is_known_by_its_chip_and_its_quick_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.device.cpu_load.psutil.cpu_count", lambda logical: 10)
    monkeypatch.setattr(os, "cpu_count", lambda: 10)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    found = read_profile(tmp_path, sysctl=M2)
    assert (found.kind, found.model, found.unified_memory) == ("mac", "Apple M2 Pro", True)
    assert num_usable_cores(tmp_path, sysctl=M2) == 6
    found = read_profile(tmp_path, sysctl=INTEL)
    assert (found.kind, found.unified_memory) == ("mac", False)
    assert num_usable_cores(tmp_path, sysctl=INTEL) == 10


@pytest.mark.parametrize(
    ("value", "cores"), [(number(4, 8), 4), (b"", None), (b"\1\0", None), (number(0, 4), None)]
)
def test_numbers_of_the_macs_table_have_two_sizes(value: bytes, cores: int | None) -> None:
    assert profile.performance_cores(mac(hw__perflevel0__physicalcpu=value)) == cores


@pytest.mark.skipif(sys.platform == "darwin", reason="a Mac has this table")
def test_elsewhere_there_is_no_such_table() -> None:
    assert profile.sysctl("machdep.cpu.brand_string") == b"" and profile.chip() == ""
