"""Device profile: a Jetson, a Raspberry Pi, a Mac, a laptop, or something else.

Read from the kernel's trees and from what NVIDIA's L4T leaves in /etc. Sources: the Jetson Linux
Developer Guide (release file, nvpmodel), the SMBIOS specification 7.4.1 (types of chassis).
"""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

Sysctl = Callable[[str], bytes]


def sysctl(name: str) -> bytes:
    """Return a value of the kernel's table as it lies in memory, b"" where there is none."""
    if sys.platform != "darwin":
        return b""
    lib = ctypes.CDLL(None)
    size, key = ctypes.c_size_t(0), name.encode()
    if lib.sysctlbyname(key, None, ctypes.byref(size), None, ctypes.c_size_t(0)) != 0:
        return b""
    buffer = ctypes.create_string_buffer(size.value)
    if lib.sysctlbyname(key, buffer, ctypes.byref(size), None, ctypes.c_size_t(0)) != 0:
        return b""
    return buffer.raw[: size.value]


def chip(read: Sysctl = sysctl) -> str:
    """Return the name of a Mac's processor, such as "Apple M2"; "" on any other machine."""
    return read("machdep.cpu.brand_string").split(b"\0")[0].decode("utf-8", "replace").strip()


def has_own_silicon(read: Sysctl = sysctl) -> bool:
    """Return whether processor and GPU share one memory, on macOS."""
    return _number(read("hw.optional.arm64")) == 1


def performance_cores(read: Sysctl = sysctl) -> int | None:
    """Return how many cores are of the quick kind, None where all are alike or nothing is told."""
    return _number(read("hw.perflevel0.physicalcpu")) or None


def _number(value: bytes) -> int:
    """Read a number of 4 or 8 bytes, which the kernel has both of; 0 for anything else."""
    return int.from_bytes(value, sys.byteorder) if len(value) in (4, 8) else 0


_PORTABLE = {8, 9, 10, 14, 30, 31, 32}  # SMBIOS: portable, laptop, notebook, ..., convertible
_JETPACK = {38: "7", 36: "6", 35: "5", 32: "4"}  # by the major number of L4T
_OLD_PYTHON = ("4", "5")  # JetPacks of Ubuntu 18.04 and 20.04


@dataclass(frozen=True, kw_only=True)
class PowerMode:
    """The power mode of a Jetson, and the number of the one that allows most."""

    name: str
    number: int
    largest: int

    @property
    def is_largest(self) -> bool:
        """Whether no mode allows more."""
        return self.number == self.largest


@dataclass(frozen=True, kw_only=True)
class DeviceProfile:
    """A device; `kind` is "jetson", "raspberry-pi", "mac", "laptop" or "other"."""

    kind: str
    model: str = ""
    l4t: str = ""  # NVIDIA's Linux for Tegra, such as "36.4.3"
    jetpack: str = ""
    power_mode: PowerMode | None = None
    unified_memory: bool = False  # GPU and processor share one memory

    def advice(self) -> list[str]:
        """Return whole sentences about what would make this device quicker."""
        found = []
        if self.power_mode is not None and not self.power_mode.is_largest:
            found.append(
                f"the power mode is {self.power_mode.name}; "
                f"`sudo nvpmodel -m {self.power_mode.largest}` and `sudo jetson_clocks` give more "
                "speed for more heat"
            )
        if self.kind == "jetson" and self.jetpack in _OLD_PYTHON:
            found.append(
                f"JetPack {self.jetpack} has a Python older than 3.10; JetPack 6 has a new one"
            )
        return found


def read_profile(root: Path = Path("/"), *, sysctl: Sysctl = sysctl) -> DeviceProfile:
    """Read the trees below `root`, and on macOS its table; what is not told stays empty."""
    if name := chip(sysctl):
        return DeviceProfile(kind="mac", model=name, unified_memory=has_own_silicon(sysctl))
    model = _text(root / "proc/device-tree/model")
    l4t = _l4t(_text(root / "etc/nv_tegra_release"))
    if l4t or "Jetson" in model:
        return DeviceProfile(
            kind="jetson",
            model=model or "NVIDIA Jetson",
            l4t=l4t,
            jetpack=_JETPACK.get(int(l4t.split(".")[0]) if l4t else 0, ""),
            power_mode=_power_mode(root),
            unified_memory=True,
        )
    if model.startswith("Raspberry Pi"):
        return DeviceProfile(kind="raspberry-pi", model=model, unified_memory=True)
    names = (_text(root / "sys/class/dmi/id" / name) for name in ("sys_vendor", "product_name"))
    sold_as = " ".join(name for name in names if name) or model
    return DeviceProfile(kind="laptop" if _is_portable(root) else "other", model=sold_as)


def _l4t(release: str) -> str:
    """Read "# R36 (release), REVISION: 4.3, GCID: ..." as "36.4.3"."""
    found = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", release)
    return f"{found[1]}.{found[2]}" if found else ""


def _power_mode(root: Path) -> PowerMode | None:
    """Read which of the modes of /etc/nvpmodel.conf is set, and which is the largest."""
    status = re.search(r"pmode:0*(\d+)", _text(root / "var/lib/nvpmodel/status"))
    if status is None:
        return None
    number = int(status[1])
    rows = re.findall(
        r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+?)\s*>", _text(root / "etc/nvpmodel.conf")
    )
    names = {int(mode): name for mode, name in rows}
    largest = max(names, key=lambda mode: (_watts(names[mode]), -mode), default=0)
    return PowerMode(name=names.get(number, f"mode {number}"), number=number, largest=largest)


def _watts(name: str) -> float:
    """Return the watts in a mode's name, without a bound for MAXN; 0 where none is named."""
    if name.startswith("MAXN"):
        return float("inf")
    found = re.search(r"(\d+)W", name)
    return float(found[1]) if found else 0.0


def _is_portable(root: Path) -> bool:
    chassis = _text(root / "sys/class/dmi/id/chassis_type")
    if chassis.isdigit():
        return int(chassis) in _PORTABLE
    supplies = (root / "sys/class/power_supply").glob("*")
    return any(
        _text(supply / "type") == "Battery" and _text(supply / "scope") != "Device"
        for supply in supplies
    )


def _text(path: Path) -> str:
    try:  # the device tree ends its strings with a zero byte
        return path.read_text(errors="replace").strip("\0 \t\r\n")
    except OSError:
        return ""
