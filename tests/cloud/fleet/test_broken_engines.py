"""An engine that breaks for good is replaced by whoever keeps it: a fleet, a pool, Ray."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloud.fleet.balance import RoundRobin
from cloud.fleet.model_pool import ModelPool
from cloud.fleet.replica import ReplicaOptions
from cloud.fleet.replicas import Replicas
from cloud.ray_app import EngineReplica, checked_args
from offload.errors import EngineStopped
from offload.messages import Delta, Request
from tests.cloud.fleet.fragile_replica import Fragile
from tests.waiting import until

FRAGILE = ReplicaOptions(engine="tests.cloud.fleet.fragile_replica:open_fragile")


async def said(engine: Replicas | ModelPool, prompt: str) -> str:
    items = [item async for item in engine.generate(Request(prompt=prompt))]
    return "".join(item.text for item in items if isinstance(item, Delta))


async def test_a_replica_whose_engine_broke_is_started_again() -> None:
    fleet = Replicas(lambda number: FRAGILE, num_replicas=1, policy=RoundRobin())
    try:
        await fleet.start()
        (replica,) = fleet.replicas
        before = await said(fleet, "break")
        await until(lambda: replica.num_starts == 2)
        assert await said(fleet, "who") != before
    finally:
        await fleet.aclose()


async def test_a_model_that_broke_is_loaded_again(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.json").write_text("{}")
    opened: list[Fragile] = []

    def open_engine(_: Path) -> Fragile:
        opened.append(Fragile())
        return opened[-1]

    pool = ModelPool(tmp_path, open_engine)
    for prompt, num_opened in (("hi", 1), ("break", 1), ("hi", 2), ("hi", 2)):
        assert await said(pool, prompt) == "one two three"
        assert len(opened) == num_opened
    await pool.aclose()


async def test_ray_is_told_of_an_engine_that_broke() -> None:
    wish = {"engine": "tests.cloud.fleet.fragile_replica:open_fragile"}
    replica = EngineReplica(checked_args(wish))
    await replica.check_health()
    _ = [item async for item in replica.engine.generate(Request(prompt="break"))]
    with pytest.raises(EngineStopped, match="start it again"):
        await replica.check_health()
