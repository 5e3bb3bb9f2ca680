"""Replicas on other machines: balanced over links and HTTP, lost and found again."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable

import pytest

from backbone.errors import WrongUsage
from cloud.endpoint_engine import open_engine
from cloud.endpoint_options import EndpointOptions
from cloud.fleet.balance import RoundRobin
from cloud.fleet.replica import ReplicaOptions
from cloud.fleet.replicas import Replicas
from offload.asker import asked_by
from offload.collect import collect
from offload.engine import Engine
from offload.errors import SettingsError
from offload.link.client import CloudLink
from offload.messages import Request
from offload.upstream.client import Upstream
from tests.offload.hybrid.pairs import ask
from tests.offload.links import serving
from tests.offload.scripted import ScriptedEngine
from tests.serve.faces import listening
from tests.waiting import until


@contextlib.asynccontextmanager
async def fleet(*reached: Callable[[], Engine]) -> AsyncIterator[Replicas]:
    made = Replicas(
        lambda number: ReplicaOptions(reach=reached[number], deaf_after_s=1.0),
        num_replicas=len(reached),
        policy=RoundRobin(),
    )
    try:
        await made.start()
        await until(lambda: all(replica.is_ready for replica in made.replicas))
        yield made
    finally:
        await made.aclose()


async def said(engine: Engine, request: Request | None = None) -> str:
    return (await collect(engine.generate(request or ask()))).text


async def test_links_and_http_servers_share_the_work() -> None:
    first, second = ScriptedEngine(["one"]), ScriptedEngine(["two"])
    async with (
        serving(first) as link,
        listening(second) as http,
        fleet(
            lambda: CloudLink(link.endpoint), lambda: Upstream(f"{http.url}/v1", for_tenants=True)
        ) as both,
    ):
        assert {await said(both) for _ in range(4)} == {"one", "two"}
        assert both.card().name == "scripted" and both.replica_counts()["ready"] == 2


async def test_who_asks_here_is_kept_apart_there_without_a_name() -> None:
    engine = ScriptedEngine()
    async with serving(engine) as server, fleet(lambda: CloudLink(server.endpoint)) as one:
        for asker in ("alice", "bob", "alice"):
            with asked_by(asker):
                await said(one, ask(session="mine"))
    alice, bob, again = (each for each in engine.requests)
    assert alice.cache_salt == again.cache_salt != bob.cache_salt
    assert alice.session == again.session != bob.session
    assert "alice" not in f"{alice}" and len(alice.via) == 1


async def test_one_that_is_lost_is_passed_over_and_found_again() -> None:
    engine = ScriptedEngine(["here"])
    async with serving(engine) as stays, serving(engine) as leaves:
        place = leaves.endpoint
        async with fleet(
            lambda: CloudLink(stays.endpoint), lambda: CloudLink(place, patience_s=0.1)
        ) as both:
            await leaves.aclose()
            for _ in range(4):
                assert await said(both) == "here"
            await until(lambda: both.replica_counts()["starting"] == 1)
            async with serving(engine, endpoint=place):
                await until(lambda: both.replica_counts()["ready"] == 2)


def test_the_options_say_which_engines_and_nothing_of_one_here() -> None:
    with pytest.raises(SettingsError, match="leave out what says how one runs here"):
        EndpointOptions(replica_at=["tcp://127.0.0.1:7070"], model="m")
    with pytest.raises(WrongUsage, match=r"cloud\.url"):
        open_engine(EndpointOptions(replica_at=["gpu1"]))
    with pytest.raises(WrongUsage, match="public key"):
        open_engine(EndpointOptions(replica_at=["tcp://192.0.2.1:7070"]))
    with pytest.raises(WrongUsage, match="2 replicas and 3 weights"):
        open_engine(
            EndpointOptions(replica_at=["http://a/v1", "http://b/v1"], replica_weights="1,1,2")
        )
