"""How many replicas there should be: by hand, and played against loads."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from cloud.fleet.autoscale import (
    SCALING_POLICIES,
    LoadSample,
    Scaler,
    ScalingOptions,
    by_latency,
    by_queue,
    by_utilization,
    predictive,
    remember,
    scaling_policy,
)
from cloud.fleet.simulate_scaling import SimulatedStep, simulate
from offload.errors import SettingsError

OPTIONS = ScalingOptions(min_replicas=1, max_replicas=8, upscale_delay_s=30, downscale_delay_s=300)


def measure(at_s: float = 0.0, num_replicas: int = 2, **more: float) -> LoadSample:
    return LoadSample(at_s=at_s, num_replicas=num_replicas, **more)


def played(name: str, load: list[float], options: ScalingOptions = OPTIONS) -> list[SimulatedStep]:
    return simulate(load, Scaler(SCALING_POLICIES[name], options), served_per_s=2.0)


def test_each_wish_is_what_a_hand_reckons() -> None:
    assert by_queue([measure(ongoing=9)], OPTIONS) == 4.5
    assert by_utilization([measure(utilization=0.35)], OPTIONS) == pytest.approx(1.0)
    assert by_latency([measure(latency_s=3.0)], OPTIONS) == 3.0
    assert by_latency([measure(latency_s=60.0)], OPTIONS) == 4.0, "at most twice as many"


def test_latency_waits_for_those_that_start_before_it_asks_for_more() -> None:
    slow = measure(num_replicas=4, num_starting=2, latency_s=60.0)
    assert by_latency([slow], OPTIONS) == 4.0
    assert by_latency([measure(num_replicas=4, num_starting=3, latency_s=60.0)], OPTIONS) == 4.0


def test_a_policy_that_there_is_not_is_refused() -> None:
    with pytest.raises(SettingsError, match="known are queue, utilization, latency, predictive"):
        scaling_policy("queues")


def test_the_newest_samples_are_all_kept_and_one_a_minute_of_a_day() -> None:
    seen: list[LoadSample] = []
    for second in range(200_000):
        remember(seen, measure(at_s=float(second)))
    times = [each.at_s for each in seen]
    assert times[-120:] == [float(second) for second in range(199_880, 200_000)]
    gaps = [after - before for before, after in pairwise(times[:-120])]
    assert set(gaps) == {60.0}
    assert 86_400 <= times[-1] - times[0] <= 86_400 + 3700


def test_a_trend_is_followed_before_it_arrives() -> None:
    seen = [measure(at_s=10.0 * n, ongoing=float(n)) for n in range(60)]
    assert predictive(seen, OPTIONS) > by_queue(seen, OPTIONS) + 1


def test_yesterday_at_this_time_is_remembered() -> None:
    rush = [measure(at_s=n * 60.0, ongoing=20.0 if 600 <= n < 660 else 0.0) for n in range(2100)]
    assert predictive(rush[: 1440 + 603], OPTIONS) >= 5
    assert predictive(rush[: 1440 + 500], OPTIONS) == pytest.approx(0.0, abs=0.1)


def test_a_need_must_last_and_its_end_too() -> None:
    scaler = Scaler(by_queue, OPTIONS)
    busy = [scaler.decide([measure(at_s=t, ongoing=16.0)]) for t in (0, 20, 31)]
    assert busy == [2, 2, 8]
    idle = [scaler.decide([measure(at_s=t, num_replicas=8)]) for t in (40, 200, 339, 341)]
    assert idle == [8, 8, 8, 1]


def test_a_short_peak_starts_nothing() -> None:
    scaler = Scaler(by_queue, OPTIONS)
    assert [scaler.decide([measure(at_s=t, ongoing=o)]) for t, o in
            ((0, 16.0), (20, 2.0), (35, 16.0), (60, 16.0))] == [2, 2, 2, 2]  # fmt: skip


@pytest.mark.parametrize("name", SCALING_POLICIES)
def test_a_step_of_load_is_met_and_left_again(name: str) -> None:
    load = [1.0] * 60 + [9.0] * 180 + [1.0] * 240
    moments = played(name, load)
    assert max(m.num_replicas for m in moments) >= 5
    assert moments[-1].num_replicas <= 2 and moments[239].wait_s < 5


@pytest.mark.parametrize("name", SCALING_POLICIES)
def test_bounds_hold_whatever_comes(name: str) -> None:
    load = [50.0 * (1 + math.sin(n / 20)) for n in range(600)] + [0.0] * 600
    counts = [m.num_replicas for m in played(name, load)]
    assert min(counts) >= 1 and max(counts) <= 8


@pytest.mark.parametrize("name", SCALING_POLICIES)
def test_a_steady_load_does_not_swing(name: str) -> None:
    counts = [m.num_replicas for m in played(name, [5.0] * 600)][200:]
    assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize(
    "wrong",
    [{"min_replicas": 3}, {"max_replicas": 0}, {"target_latency_s": 0}, {"upscale_delay_s": -1}],
)
def test_a_wrong_option_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(SettingsError):
        ScalingOptions(**wrong)  # type: ignore[arg-type]
