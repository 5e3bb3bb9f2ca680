"""A recorded load is what the log told, and can be played to every scaler."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cloud.fleet.autoscale import SCALING_POLICIES, Scaler, ScalingOptions
from cloud.fleet.recorded_load import LoadSecond, read, read_log, write
from cloud.fleet.simulate_scaling import simulate
from offload.errors import SettingsError

RECORDING = Path(__file__).parents[3] / "benchmarks" / "load_recorded.csv"
CHAT = "/v1/chat/completions"


def line(clock: str, seconds: float, path: str = CHAT) -> str:
    return json.dumps({"time": f"2026-01-01T{clock}Z", "path": path, "seconds": seconds})


def test_requests_are_counted_in_the_second_they_arrived_in() -> None:
    log = [
        line("10:00:05", 2.5),
        line("10:00:03", 0.5),
        line("10:00:04", 0.5),
        line("10:00:04", 1.0, "/metrics"),
        "not JSON",
        '["nor a request"]',
        '{"time": "yesterday", "path": "/v1/completions", "seconds": 1}',
    ]
    assert read_log(log) == [LoadSecond(0, 2, 1.5), LoadSecond(1, 1, 0.5)]


def test_a_recording_survives_its_file(tmp_path: Path) -> None:
    seconds = [LoadSecond(0, 2, 1.5), LoadSecond(1, 0, 0.0)]
    write(tmp_path / "load.csv", seconds)
    assert read(tmp_path / "load.csv") == seconds


def test_what_is_no_recording_is_told(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="holds no request"):
        read_log(["{}"])
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(SettingsError, match=r"other\.csv is no recorded load"):
        read(tmp_path / "other.csv")


@pytest.mark.parametrize("wish", SCALING_POLICIES)
def test_a_scaler_keeps_up_with_the_recorded_load(wish: str) -> None:
    load = [float(second.requests) for second in read(RECORDING)]
    options = ScalingOptions(
        min_replicas=1, max_replicas=16, upscale_delay_s=2.0, downscale_delay_s=30.0
    )
    played = simulate(
        [*load, *[0.0] * 600],
        Scaler(SCALING_POLICIES[wish], options),
        step_s=1.0,
        served_per_s=10.0,
        start_s=5.0,
    )
    assert sum(load) > 1000, "it was a load"
    assert max(moment.num_replicas for moment in played) > 1
    assert played[-1].queue == 0 and played[-1].num_replicas == options.min_replicas
