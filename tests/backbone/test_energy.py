"""Energy read from stand-ins of what Linux and NVML show."""

from __future__ import annotations

from pathlib import Path

import pytest

from backbone.energy import EnergyMeter, energy_in_words
from backbone.nvml import GpuReading


def rapl(root: Path, name: str, joules: float, most: float = 1000.0) -> Path:
    folder = root / "class/powercap" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "energy_uj").write_text(f"{joules * 1e6:.0f}\n")
    (folder / "max_energy_range_uj").write_text(f"{most * 1e6:.0f}\n")
    return folder


def rail(root: Path, channel: int, label: str, milli: tuple[int, int]) -> Path:
    folder = root / "bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3"
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in (
        (f"in{channel}_label", label),
        (f"in{channel}_input", milli[0]),
        (f"curr{channel}_input", milli[1]),
    ):
        (folder / name).write_text(f"{value}\n")
    return folder


def gpu(joules: float | None) -> GpuReading:
    plain = dict.fromkeys(
        ("utilization", "memory_used_bytes", "memory_total_bytes", "power_w", "temperature_c")
    )
    return GpuReading(index=0, uuid="GPU-1", name="fake", energy_j=joules, **plain)  # type: ignore[arg-type]


def meter(root: Path, **more: object) -> EnergyMeter:
    return EnergyMeter(root, **{"gpus": list, **more})  # type: ignore[arg-type]


def test_packages_are_counted_from_the_start_and_their_parts_are_not(tmp_path: Path) -> None:
    for name in ("intel-rapl:0", "intel-rapl:1", "intel-rapl:0:0"):
        rapl(tmp_path, name, 100)
    made = meter(tmp_path)
    assert made.read() == {"cpu": 0.0}
    for name in ("intel-rapl:0", "intel-rapl:1", "intel-rapl:0:0"):
        rapl(tmp_path, name, 107.5)
    assert made.read()["cpu"] == pytest.approx(15.0)


def test_a_counter_that_begins_anew_loses_nothing(tmp_path: Path) -> None:
    rapl(tmp_path, "intel-rapl:0", 990)
    made = meter(tmp_path)
    rapl(tmp_path, "intel-rapl:0", 5)
    assert made.read()["cpu"] == pytest.approx(15.0)
    rapl(tmp_path, "intel-rapl:0", 6)
    assert made.read()["cpu"] == pytest.approx(16.0)


def test_a_gpu_is_counted_where_its_driver_tells(tmp_path: Path) -> None:
    joules: list[float | None] = [5.0, 8.0, None]
    made = meter(tmp_path, gpus=lambda: [gpu(joules.pop(0))])
    assert made.read() == {"gpu": 3.0} and made.read() == {"gpu": 3.0}


def test_the_power_of_a_jetsons_board_is_summed_over_time(tmp_path: Path) -> None:
    rail(tmp_path, 2, "VDD_CPU_GPU_CV", (19_000, 900))
    rail(tmp_path, 1, "VDD_IN", (20_000, 500))
    times = [0.0, 0.0, 3.0]
    made = meter(tmp_path, clock=lambda: times.pop(0))
    assert made.read() == {"board": pytest.approx(30.0)}


def test_it_is_said_who_counts_or_why_nobody_does(tmp_path: Path) -> None:
    assert energy_in_words({}, tmp_path) == "not told by this machine"
    assert "RAPL" in energy_in_words({"cpu": 1.0}, tmp_path)
    folder = rapl(tmp_path, "intel-rapl:0", 1)
    (folder / "energy_uj").unlink()
    (folder / "energy_uj").mkdir()  # as what may not be read
    assert meter(tmp_path).read() == {}
    assert "by root alone" in energy_in_words({}, tmp_path)
