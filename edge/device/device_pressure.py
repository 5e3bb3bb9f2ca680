"""Device pressure: battery, heat and short memory, which ask for fewer threads."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from edge.device.cpu_load import allowed_cores

_THROTTLED = "soc*/*firmware/get_throttled"  # of a Raspberry Pi
READ_EVERY_S = 5.0
SHORT_OF_MEMORY = 10.0  # per cent of the last ten seconds in which some task waited for memory


@dataclass(frozen=True, kw_only=True)
class DevicePressure:
    """Device pressure: battery, heat and memory, as they are now."""

    on_battery: bool = False
    hot: bool = False
    short_of_memory: bool = False

    def ceiling(self, num_cores: int) -> int:
        """Return the threads to use at most: all, or half for each thing that weighs."""
        weights = (self.on_battery, self.hot, self.short_of_memory)
        return max(1, num_cores >> sum(weights)) if any(weights) else num_cores


def read_pressure(root: Path = Path("/")) -> DevicePressure:
    """Read the kernel's trees below `root`; what a machine does not have weighs nothing."""
    return DevicePressure(
        on_battery=_on_battery(root / "sys/class/power_supply") or _mac_on_battery(),
        hot=any(_is_hot(zone) for zone in (root / "sys/class/thermal").glob("thermal_zone*"))
        or any(_is_throttled(path) for path in (root / "sys/devices/platform").glob(_THROTTLED)),
        short_of_memory=_memory_wait(root / "proc/pressure/memory") > SHORT_OF_MEMORY,
    )


class Ceiling:
    """Thread ceiling: the most threads to use of the cores there are, read every few seconds.

    The cores that the process may run on are asked for each time: a thread without a core of its
    own makes the others wait, and that answer costs nothing.
    """

    def __init__(
        self,
        num_cores: Callable[[], int],
        *,
        read: Callable[[], DevicePressure] = read_pressure,
        allowed: Callable[[], frozenset[int] | None] = allowed_cores,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._num_cores = num_cores
        self._read = read
        self._allowed = allowed
        self._clock = clock
        self._until = -1e9
        self._pressure = DevicePressure()

    def __call__(self) -> int:
        """Return the ceiling."""
        now = self._clock()
        if now >= self._until:
            self._until = now + READ_EVERY_S
            self._pressure = self._read()
        allowed, most = self._allowed(), self._pressure.ceiling(self._num_cores())
        return most if allowed is None else max(1, min(most, len(allowed)))


def _on_battery(folder: Path) -> bool:
    """A battery is discharging and nothing else feeds the machine."""
    supplies = [(_text(s / "type"), s) for s in folder.glob("*")]
    fed = any(kind != "Battery" and _text(s / "online") == "1" for kind, s in supplies)
    batteries = [s for kind, s in supplies if kind == "Battery" and _text(s / "scope") != "Device"]
    draining = any(_text(battery / "status") == "Discharging" for battery in batteries)
    return draining and not fed


def _mac_on_battery() -> bool:
    """Where there is no tree to read, the operating system is asked."""
    if sys.platform != "darwin":
        return False
    battery = psutil.sensors_battery()
    return battery is not None and battery.power_plugged is False


def _is_throttled(path: Path) -> bool:
    """The firmware of a Raspberry Pi slows its clock now: for heat, or for want of power.

    Bits 0 to 3 are of now (under-voltage, capped, throttled, soft limit), those from 16 on of the
    past. Source: the documentation of `vcgencmd get_throttled`.
    """
    try:
        return bool(int(_text(path), 16) & 0b1111)
    except ValueError:
        return False


def _is_hot(zone: Path) -> bool:
    """The zone is at the temperature from which the kernel slows the clock (passive trip)."""
    temperature = _number(zone / "temp")  # thousandths of a degree, as the trips are
    trips = [
        trip
        for kind in zone.glob("trip_point_*_type")
        if _text(kind) == "passive"
        and (trip := _number(kind.with_name(kind.name.replace("_type", "_temp")))) > 0
    ]
    return bool(trips) and temperature >= min(trips)


def _memory_wait(path: Path) -> float:
    found = re.search(r"^some avg10=(\d+(?:\.\d+)?)", _text(path), re.MULTILINE)
    return float(found[1]) if found else 0.0


def _number(path: Path) -> int:
    """Read a number; some drivers write it with a fraction, and 0 stands for none."""
    try:
        return int(float(_text(path)))
    except (ValueError, OverflowError):
        return 0


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:  # sensors may be there and refuse to be read
        return ""
