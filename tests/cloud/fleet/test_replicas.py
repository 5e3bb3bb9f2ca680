"""Real processes: balanced, started again when they die, and no question lost with them."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from cloud.fleet.balance import LeastConnections, LoadAware, RoundRobin
from cloud.fleet.replica import ReplicaOptions
from cloud.fleet.replicas import Replicas
from offload.asker import asked_by
from offload.engine import AnswerStream
from offload.errors import CloudFailed
from offload.messages import Delta, Finish, ForwardedRequest, Request, Sampling
from tests.waiting import until

OPTIONS = ReplicaOptions(
    engine="tests.cloud.fleet.scripted_replica:open_scripted",
    arguments={"pause_s": 0.005},
    start_timeout_s=60.0,
)


def long() -> Request:
    return Request(prompt="long", sampling=Sampling(max_tokens=1001))


@pytest.fixture
async def fleet() -> AsyncIterator[Replicas]:
    made = Replicas(lambda number: OPTIONS, num_replicas=2, policy=RoundRobin())
    try:
        await made.start()
        await until(lambda: all(replica.is_ready for replica in made.replicas))
        yield made
    finally:
        await made.aclose()


async def count(items: AnswerStream) -> int:
    return len([item async for item in items])


async def said(engine: Replicas, request: Request) -> str:
    return "".join(
        [item.text async for item in engine.generate(request) if isinstance(item, Delta)]
    )


async def pid_of(engine: Replicas, text: str = "short") -> int:
    items = [item async for item in engine.generate(Request(prompt=text))]
    assert isinstance(items[-1], Finish) and isinstance(items[0], Delta)
    return int(items[0].text)


async def test_requests_go_round_and_a_dead_replica_comes_back(fleet: Replicas) -> None:
    pids = {replica.pid for replica in fleet.replicas}
    assert {await pid_of(fleet) for _ in range(4)} == pids
    assert fleet.card().name == "scripted"

    victim = fleet.replicas[0]
    begun = fleet.generate(long())
    chosen = await anext(begun)
    assert isinstance(chosen, Delta)
    os.kill(int(chosen.text), signal.SIGKILL)
    with pytest.raises(CloudFailed, match="died"):
        async for _ in begun:
            pass
    answers = await asyncio.gather(*(pid_of(fleet) for _ in range(8)))
    assert chosen.text not in {str(pid) for pid in answers}, "what was queued went elsewhere"
    await until(lambda: sum(replica.num_starts for replica in fleet.replicas) == 3)
    await until(lambda: all(replica.is_ready for replica in fleet.replicas))
    assert len({await pid_of(fleet) for _ in range(4)}) == 2
    assert victim in fleet.replicas


async def test_a_question_that_waits_for_its_first_word_outlives_its_replica(
    fleet: Replicas,
) -> None:
    fleet.policy = LeastConnections()
    pids = [replica.pid for replica in fleet.replicas]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    asking = [asyncio.create_task(pid_of(fleet)) for _ in range(4)]
    await until(lambda: sum(replica.num_running for replica in fleet.replicas) == 4)
    os.kill(pids[0], signal.SIGKILL)
    os.kill(pids[1], signal.SIGCONT)
    answers = await asyncio.gather(*asking)
    assert pids[0] not in answers and pids[1] in answers


async def test_a_request_that_ends_whoever_reads_it_does_not_end_them_all(
    fleet: Replicas,
) -> None:
    fleet.scale(3)
    await until(lambda: all(replica.is_ready for replica in fleet.replicas))
    with pytest.raises(CloudFailed, match="2 replicas died"):
        await pid_of(fleet, "die")
    assert sum(replica.is_ready for replica in fleet.replicas) >= 1
    assert await pid_of(fleet) > 0


async def test_fewer_replicas_finish_what_they_have(fleet: Replicas) -> None:
    begun = [fleet.generate(long()) for _ in range(2)]
    first = [await anext(each) for each in begun]
    assert len({item.text for item in first if isinstance(item, Delta)}) == 2
    fleet.scale(1)
    counts = [await count(each) for each in begun]
    assert counts == [1001, 1001], "nothing was cut off"
    assert len(fleet.replicas) == 1
    fleet.scale(2)
    await until(lambda: all(replica.is_ready for replica in fleet.replicas))
    assert len({await pid_of(fleet) for _ in range(4)}) == 2


async def test_a_replica_knows_for_whom_it_works_whatever_a_salt_pretends(fleet: Replicas) -> None:
    with asked_by("http:alice"):
        assert await said(fleet, Request(prompt="who")) == "http:alice|"
        mine = await said(fleet, Request(prompt="who", cache_salt="mine"))
    with asked_by("http:bob"):
        forged = await said(fleet, Request(prompt="who", cache_salt="http:alice\n"))
        claimed = await said(fleet, ForwardedRequest(prompt="who", asker="http:alice"))
    assert mine == "http:alice|mine"
    assert forged == "http:bob|http:alice\n" and claimed == "http:bob|"


async def test_the_load_of_all_replicas_is_known(fleet: Replicas) -> None:
    begun = [fleet.generate(long()) for _ in range(4)]
    for each in begun:
        await anext(each)

    def running() -> int:
        load = fleet.report()
        return load.num_running if load else 0

    await until(lambda: running() == 4)
    for each in begun:
        await each.aclose()  # type: ignore[attr-defined]
    await until(lambda: running() == 0)


async def test_a_full_cache_sends_requests_elsewhere() -> None:
    def options(number: int) -> ReplicaOptions:
        arguments = {"pause_s": 0.0, "cache_use": 0.95 if number == 0 else 0.1}
        return replace(OPTIONS, arguments=arguments)

    made = Replicas(options, num_replicas=2, policy=LoadAware())
    try:
        await made.start()
        await until(lambda: all(each.is_ready for each in made.replicas))
        await until(lambda: all(each.status().cache_use > 0 for each in made.replicas))
        first, roomy = (replica.pid for replica in made.replicas)
        for replica in made.replicas:
            replica.mean_s = 1.0  # equally quick, so that only the caches differ
        assert first != roomy and await pid_of(made) == roomy
    finally:
        await made.aclose()
