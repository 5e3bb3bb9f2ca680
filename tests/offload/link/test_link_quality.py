from __future__ import annotations

import asyncio

import pytest

from offload.errors import CloudUnreachable
from offload.link.client import CloudLink
from offload.link.health import HeartbeatTimes
from offload.link.link_quality import measure
from tests.offload.chaos import Chaos
from tests.offload.links import DEADLINE_S, linked, nowhere, serving
from tests.offload.scripted import ScriptedEngine

pytestmark = pytest.mark.alone


async def test_a_good_link_measures_well() -> None:
    async with linked(ScriptedEngine()) as (_, link):
        found = await measure(link, num_pings=10, timeout_s=DEADLINE_S)
    assert found.loss == 0
    assert found.rtt_p50_s is not None and found.rtt_p95_s is not None
    assert 0 < found.rtt_p50_s <= found.rtt_p95_s
    assert found.bytes_per_s is not None and found.bytes_per_s > 0
    assert found.clock_offset_s is not None
    assert abs(found.clock_offset_s) < found.rtt_p50_s + 0.1, "both read the same clock"


async def test_distance_and_bandwidth_show() -> None:
    async with serving(ScriptedEngine()) as server, Chaos(server.endpoint) as chaos:
        link = CloudLink(chaos.endpoint)
        await link.connect()
        chaos.delay_s, chaos.bytes_per_s = 0.02, 4_000_000
        found = await measure(link, num_pings=5, num_large=8, timeout_s=DEADLINE_S)
        await link.aclose()
    assert found.rtt_p50_s is not None and found.rtt_p50_s >= 0.04
    assert found.bytes_per_s is not None and found.bytes_per_s < 8_000_000


async def test_pings_that_are_not_answered_are_lost() -> None:
    async with serving(ScriptedEngine()) as server, Chaos(server.endpoint) as chaos:
        unhurried = HeartbeatTimes(ping_after_s=DEADLINE_S, dead_after_s=3 * DEADLINE_S)
        link = CloudLink(chaos.endpoint, times=unhurried)
        await link.connect()
        chaos.blackhole = True
        found = await measure(link, num_pings=4, num_large=1, timeout_s=0.05)
        await link.aclose()
    assert (found.loss, found.rtt_p50_s, found.bytes_per_s) == (1, None, None)


async def test_nothing_to_measure_is_an_error() -> None:
    with nowhere() as endpoint, pytest.raises(CloudUnreachable):
        await measure(CloudLink(endpoint, connect_timeout_s=0.1))


async def test_a_ping_of_a_closed_link_leaves_nothing_behind() -> None:
    async with linked(ScriptedEngine()) as (_, link):
        await link.connect()
        task = asyncio.create_task(link.ping())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        assert link.line.connection is not None and not link.line.connection.pinged
