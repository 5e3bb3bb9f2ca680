from __future__ import annotations

from pathlib import Path

import pytest

from edge.device.device_pressure import Ceiling, DevicePressure, read_pressure
from edge.device.governor import Governor


def _tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root


LAPTOP = {
    "sys/class/power_supply/AC/type": "Mains",
    "sys/class/power_supply/AC/online": "0",
    "sys/class/power_supply/BAT0/type": "Battery",
    "sys/class/power_supply/BAT0/status": "Discharging",
}
JETSON = {
    "sys/class/thermal/thermal_zone0/temp": "71000",
    "sys/class/thermal/thermal_zone0/trip_point_0_type": "passive",
    "sys/class/thermal/thermal_zone0/trip_point_0_temp": "70000",
    "sys/class/thermal/thermal_zone0/trip_point_1_type": "critical",
    "sys/class/thermal/thermal_zone0/trip_point_1_temp": "104500",
}
PRESSURE = "some avg10=25.00 avg60=3.00 avg300=1.00 total=5\nfull avg10=1.00 avg60=0 total=1"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, DevicePressure()),
        (LAPTOP, DevicePressure(on_battery=True)),
        ({**LAPTOP, "sys/class/power_supply/AC/online": "1"}, DevicePressure()),
        ({**LAPTOP, "sys/class/power_supply/BAT0/scope": "Device"}, DevicePressure()),  # a mouse's
        (JETSON, DevicePressure(hot=True)),
        ({**JETSON, "sys/class/thermal/thermal_zone0/temp": "45000"}, DevicePressure()),
        ({**JETSON, "sys/class/thermal/thermal_zone0/temp": "nonsense"}, DevicePressure()),
        ({"proc/pressure/memory": PRESSURE}, DevicePressure(short_of_memory=True)),
        ({"proc/pressure/memory": PRESSURE.replace("25.00", "0.10")}, DevicePressure()),
    ],
)
def test_trees_of_devices_are_read(
    tmp_path: Path, files: dict[str, str], expected: DevicePressure
) -> None:
    assert read_pressure(_tree(tmp_path, files)) == expected


def test_each_strain_halves_the_threads_and_one_remains() -> None:
    assert DevicePressure().ceiling(8) == 8
    assert DevicePressure(hot=True).ceiling(8) == 4
    assert DevicePressure(hot=True, on_battery=True).ceiling(8) == 2
    assert DevicePressure(hot=True, on_battery=True, short_of_memory=True).ceiling(2) == 1


def test_ceiling_is_read_again_after_a_while() -> None:
    now, pressures = [0.0], iter([DevicePressure(), DevicePressure(hot=True)])
    ceiling = Ceiling(
        lambda: 8, read=lambda: next(pressures), allowed=lambda: None, clock=lambda: now[0]
    )
    assert (ceiling(), ceiling()) == (8, 8)
    now[0] = 6.0
    assert ceiling() == 4


def test_a_core_that_goes_away_is_noticed_at_once() -> None:
    allowed = [frozenset({0, 1, 2, 3})]
    ceiling = Ceiling(lambda: 4, read=DevicePressure, allowed=lambda: allowed[0], clock=lambda: 0.0)
    assert ceiling() == 4
    allowed[0] = frozenset({2})
    assert ceiling() == 1
    allowed[0] = frozenset({0, 1, 2, 3})
    assert ceiling() == 4


def test_governor_keeps_below_the_ceiling() -> None:
    limit, now = [8], [0.0]
    governor = Governor(
        lambda: 8, others=lambda: 0.0, ceiling=lambda: limit[0], clock=lambda: now[0]
    )
    assert governor.threads == 8
    limit[0] = 4
    governor.look()
    assert governor.threads == 4 and governor.prefill_threads == 4
    for _ in range(200):
        now[0] += 0.1
        assert governor.step(0.1) <= 4
