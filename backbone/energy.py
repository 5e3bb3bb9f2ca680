"""Energy that this machine counts: RAPL of its CPUs, NVML of its GPUs, the rail of a Jetson board.

RAPL (Linux, /sys/class/powercap) and NVML count joules themselves. A Jetson tells its power now,
as tegrastats shows it, which is taken to have held since the last look.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

from backbone.nvml import GpuReading, read_gpus

_BOARD = "bus/i2c/drivers/ina3221*/*/hwmon/hwmon*/in*_label"
_INPUT = ("VDD_IN", "POM_5V_IN")  # the rail of the whole board, Orin's and Xavier's or older


class EnergyMeter:
    """Energy meter: joules since it was made, by who counts them; {} where nobody does."""

    def __init__(
        self,
        root: Path = Path("/sys"),
        *,
        gpus: Callable[[], list[GpuReading]] = read_gpus,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`root` is where Linux shows its devices."""
        self._root, self._gpus, self._clock = root, gpus, clock
        self._last: dict[str, float] = {}  # what each counter said
        self._at_s = clock()
        self._used: defaultdict[str, float] = defaultdict(float)
        self.read()

    def read(self) -> dict[str, float]:
        """Return the joules of "cpu", "gpu" and "board" so far, as far as they are told here."""
        now_s = self._clock()
        since_s, self._at_s = now_s - self._at_s, now_s
        for source, name, joules, wraps_at in (*self._packages(), *self._of_gpus()):
            before = self._last.get(name, joules)
            self._last[name] = joules
            passed = joules - before
            self._used[source] += passed if passed >= 0 else passed + wraps_at
        if (watts := self._board_watts()) is not None:
            self._used["board"] += watts * since_s
        return dict(self._used)

    def _packages(self) -> Iterator[tuple[str, str, float, float]]:
        for folder in sorted(self._root.glob("class/powercap/intel-rapl:*")):
            if folder.name.count(":") > 1:
                continue  # a part of a package, which counts it already
            joules = _number(folder / "energy_uj")
            if joules is not None:
                most = _number(folder / "max_energy_range_uj") or 0.0
                yield "cpu", folder.name, joules / 1e6, most / 1e6

    def _of_gpus(self) -> Iterator[tuple[str, str, float, float]]:
        for gpu in self._gpus():
            if gpu.energy_j is not None:
                yield "gpu", gpu.uuid, gpu.energy_j, 0.0

    def _board_watts(self) -> float | None:
        for label in self._root.glob(_BOARD):
            if _text(label) not in _INPUT:
                continue
            channel = label.name.removeprefix("in").removesuffix("_label")
            volts = _number(label.with_name(f"in{channel}_input"))
            amperes = _number(label.with_name(f"curr{channel}_input"))
            if volts is not None and amperes is not None:
                return volts * amperes / 1e6
        return None


def energy_in_words(told: dict[str, float], root: Path = Path("/sys")) -> str:
    """Return who counts energy here, or why nobody does, in one line."""
    names = {"cpu": "the CPU (RAPL)", "gpu": "the GPU (NVML)", "board": "the board (its power)"}
    if told:
        return f"counted for {', '.join(names[source] for source in told)}"
    if any(root.glob("class/powercap/intel-rapl:*")):
        return "not told: /sys/class/powercap/*/energy_uj may be read by root alone"
    return "not told by this machine"


def _number(path: Path) -> float | None:
    text = _text(path)
    return float(text) if text.isdecimal() else None


def _text(path: Path) -> str:
    try:
        return path.read_text("ascii", "replace").strip()
    except OSError:
        return ""
