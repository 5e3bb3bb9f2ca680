"""The number of replicas follows the load, and no answer is lost on the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from cloud.fleet.autoscale import LoadSample, ScalingOptions
from cloud.fleet.autoscaler import Autoscaler
from cloud.fleet.balance import LeastConnections
from cloud.fleet.replicas import Replicas
from offload.errors import SettingsError
from tests.cloud.fleet.test_replicas import OPTIONS, count, long, pid_of
from tests.waiting import until

AT_ONCE = ScalingOptions(min_replicas=1, max_replicas=3, upscale_delay_s=0, downscale_delay_s=0)


@pytest.fixture
async def one() -> AsyncIterator[Replicas]:
    made = Replicas(lambda number: OPTIONS, num_replicas=1, policy=LeastConnections())
    try:
        await made.start()
        yield made
    finally:
        await made.aclose()


def num_ready(fleet: Replicas) -> int:
    return fleet.replica_counts()["ready"]


async def test_replicas_come_with_the_load_and_go_without_it(one: Replicas) -> None:
    told: list[str] = []
    scaler = Autoscaler(one, AT_ONCE, tell=told.append)
    scaler.look()
    assert one.replica_counts() == {"ready": 1, "starting": 0, "draining": 0} and not told
    asked = [asyncio.create_task(count(one.generate(long()))) for _ in range(6)]
    await until(lambda: one.num_ongoing == 6)
    scaler.look()
    assert len(one.replicas) == 3 and len(told) == 1
    assert told[0].startswith("replicas: 1 -> 3 by queue (6 answers in flight, ")
    await until(lambda: num_ready(one) == 3)
    assert await asyncio.gather(*asked) == [1002] * 6, "nothing was lost"
    scaler.look()
    await until(lambda: one.replica_counts() == {"ready": 1, "starting": 0, "draining": 0})
    assert told[1].startswith("replicas: 3 -> 1 by queue (0 answers in flight")
    assert one.latency.mean_s() > 1


async def test_a_look_that_fails_is_not_the_last_one(
    one: Replicas, caplog: pytest.LogCaptureFixture
) -> None:
    looks = 0

    def sample() -> LoadSample:
        nonlocal looks
        looks += 1
        if looks == 1:
            raise ValueError("the first look fails")
        return LoadSample(at_s=float(looks), num_replicas=1, ongoing=4.0)

    async with Autoscaler(one, AT_ONCE, sample=sample).running():
        await until(lambda: len(one.replicas) == 2)
    assert "the first look fails" in caplog.text


async def test_one_that_drains_is_taken_back_before_another_is_started(one: Replicas) -> None:
    one.scale(2)
    await until(lambda: num_ready(one) == 2)
    asked = [asyncio.create_task(count(one.generate(long()))) for _ in range(2)]
    await until(lambda: one.num_ongoing == 2)
    pids = {replica.pid for replica in one.replicas}
    one.scale(1)
    assert one.replica_counts() == {"ready": 1, "starting": 0, "draining": 1}
    one.scale(2)
    assert one.replica_counts() == {"ready": 2, "starting": 0, "draining": 0}
    assert {replica.pid for replica in one.replicas} == pids
    assert await asyncio.gather(*asked) == [1002, 1002]
    assert {await pid_of(one) for _ in range(4)} == pids, "both still answer"


async def test_who_has_least_to_do_leaves_and_its_place_is_given_again() -> None:
    given: list[int] = []

    def options_of(slot: int) -> object:
        given.append(slot)
        return OPTIONS

    fleet = Replicas(options_of, num_replicas=2, policy=LeastConnections())  # type: ignore[arg-type]
    try:
        await fleet.start()
        await until(lambda: num_ready(fleet) == 2)
        first, second = fleet.replicas
        busy = fleet.generate(long())
        await anext(busy)
        (idle,) = (each for each in (first, second) if not each.num_running)
        fleet.scale(1)
        assert idle not in fleet.replicas
        await until(lambda: fleet.replica_counts()["draining"] == 0)
        fleet.scale(2)
        fleet.scale(3)
        assert fleet.replica_counts()["starting"] == 2
        fleet.scale(1)
        assert fleet.replica_counts()["ready"] == 1, "those that start leave first"
        assert given == [0, 1, 1 - given_to(fleet, first), 2]
        await busy.aclose()
    finally:
        await fleet.aclose()


def given_to(fleet: Replicas, first: object) -> int:
    """Return the place of the replica that stayed: 0 where it is the first."""
    return 0 if fleet.replicas[0] is first else 1


async def test_a_request_hears_of_a_replica_that_was_started_while_it_waited() -> None:
    fleet = Replicas(lambda number: OPTIONS, num_replicas=0, policy=LeastConnections())
    try:
        asking = asyncio.create_task(pid_of(fleet))
        await until(lambda: fleet.num_ongoing == 1)
        fleet.scale(1)
        assert await asking == fleet.replicas[0].pid
    finally:
        await fleet.aclose()


async def test_a_replica_has_answered_once_before_it_gets_work(one: Replicas) -> None:
    assert await pid_of(one, "asked before") == 1


async def test_a_policy_that_there_is_not_is_refused(one: Replicas) -> None:
    with pytest.raises(SettingsError, match="no scaling policy 'cpu'"):
        Autoscaler(one, AT_ONCE, scale_by="cpu")
