from __future__ import annotations

import pytest

from offload.link.health import Heartbeat, HeartbeatTimes, RoundTrips


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_silence_is_death_and_any_traffic_is_life() -> None:
    clock = Clock()
    heartbeat = Heartbeat(HeartbeatTimes(ping_after_s=0.4, dead_after_s=1.6), clock)
    clock.now += 1.5
    assert not heartbeat.is_dead
    heartbeat.heard()
    clock.now += 1.5
    assert not heartbeat.is_dead
    clock.now += 0.2
    assert heartbeat.is_dead


def test_a_time_when_we_did_not_listen_is_no_silence() -> None:
    clock = Clock()
    times = HeartbeatTimes(ping_after_s=0.4, dead_after_s=1.6)
    heartbeat = Heartbeat(times, clock)
    clock.now += 30
    heartbeat.look()
    assert not heartbeat.is_dead and heartbeat.wants_ping
    while not heartbeat.is_dead:
        clock.now += times.look_every_s
        heartbeat.look()
    assert clock.now == pytest.approx(131.4, abs=0.3)


def test_a_dead_peer_is_known_within_two_seconds() -> None:
    assert HeartbeatTimes().dead_after_s + HeartbeatTimes().look_every_s < 2


def test_a_ping_is_wanted_while_either_direction_is_stale() -> None:
    clock = Clock()
    heartbeat = Heartbeat(HeartbeatTimes(ping_after_s=0.4, dead_after_s=1.6), clock)
    assert not heartbeat.wants_ping
    clock.now += 0.4
    assert heartbeat.wants_ping
    heartbeat.sent()
    assert heartbeat.wants_ping, "we have not heard anything"
    heartbeat.heard()
    assert not heartbeat.wants_ping


def test_a_tempo_too_fast_to_ping_is_refused() -> None:
    with pytest.raises(AssertionError, match="two pings"):
        HeartbeatTimes(ping_after_s=1.0, dead_after_s=1.6)


def test_the_round_trip_is_the_median_and_the_clock_that_of_the_shortest() -> None:
    trips = RoundTrips(keep=3)
    assert trips.rtt_s is None
    for rtt_s, cloud_clock_s in [(0.010, 55.005), (0.500, 51.0), (0.020, 60.0)]:
        trips.note(rtt_s=rtt_s, cloud_clock_s=cloud_clock_s, our_clock_s=50.0)
    assert trips.rtt_s == 0.020
    assert trips.clock_offset_s == pytest.approx(5.010)
