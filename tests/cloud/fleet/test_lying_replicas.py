"""A replica that lies, stands still or goes deaf costs its own answer, and is started anew."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from cloud.fleet.balance import ReplicaStatus
from cloud.fleet.replica import ReplicaOptions
from cloud.fleet.replicas import Replicas
from offload.errors import CloudFailed
from offload.messages import Delta, Finish, Request, Sampling
from tests.cloud.fleet.test_replicas import OPTIONS, said
from tests.waiting import until

SHORT = Sampling(max_tokens=8)


def asked() -> Request:
    return Request(prompt="short", sampling=SHORT, deadline_s=20.0)


class First:
    """The first of those that can be asked."""

    def choose(self, replicas: Sequence[ReplicaStatus], prefix: bytes) -> int:
        return 0


class Last:
    """The last of them."""

    def choose(self, replicas: Sequence[ReplicaStatus], prefix: bytes) -> int:
        return len(replicas) - 1


def lying(answer: str, **changed: float) -> ReplicaOptions:
    lies = replace(OPTIONS, engine="tests.cloud.fleet.lying_replica:open_lying")
    deaf_after = int(changed.pop("after", 0))
    lies = replace(lies, arguments={"answer": answer, "deaf_after": deaf_after})
    return replace(lies, **changed)  # type: ignore[arg-type]


@asynccontextmanager
async def fleet_of(*options: ReplicaOptions) -> AsyncIterator[Replicas]:
    made = Replicas(lambda number: options[number], num_replicas=len(options), policy=First())
    try:
        await made.start()
        await until(lambda: all(replica.is_ready for replica in made.replicas))
        yield made
    finally:
        await made.aclose()


async def test_one_that_never_ends_is_cut_off_and_hurts_no_other() -> None:
    async with fleet_of(lying("endless"), OPTIONS) as fleet:
        with pytest.raises(CloudFailed):
            await said(fleet, asked())
        fleet.policy = Last()
        assert int((await said(fleet, asked())).split()[0]) == fleet.replicas[1].pid


@pytest.mark.parametrize("answer", ["silent", "another", "begun"])
async def test_one_that_says_nothing_is_started_anew_and_its_questions_go_on(answer: str) -> None:
    async with fleet_of(lying(answer, stuck_after_s=0.3), OPTIONS) as fleet:
        liar = fleet.replicas[0]
        if answer == "begun":  # another may not write the same text
            with pytest.raises(CloudFailed, match="died"):
                await said(fleet, asked())
        else:
            assert int((await said(fleet, asked())).split()[0]) == fleet.replicas[1].pid
        await until(lambda: liar.num_starts == 2)


async def test_one_that_hears_nothing_any_more_is_started_anew() -> None:
    async with fleet_of(lying("silent", after=3, deaf_after_s=0.5), OPTIONS) as fleet:
        deaf = fleet.replicas[0]
        await until(lambda: deaf.num_starts == 2)
        answers = await asyncio.gather(*(said(fleet, asked()) for _ in range(4)))
        assert {int(answer.split()[0]) for answer in answers} == {fleet.replicas[1].pid}


async def test_a_frozen_process_is_asked_last_and_started_anew() -> None:
    async with fleet_of(replace(OPTIONS, deaf_after_s=3.0), OPTIONS) as fleet:
        frozen, other = fleet.replicas
        os.kill(frozen.pid, signal.SIGSTOP)
        await until(lambda: not frozen.is_well)
        answers = await asyncio.gather(*(said(fleet, asked()) for _ in range(4)))
        assert {int(answer.split()[0]) for answer in answers} == {other.pid}
        await until(lambda: frozen.num_starts == 2 and frozen.is_ready)


async def test_a_busy_replica_is_not_taken_for_a_stuck_one() -> None:
    slow = replace(OPTIONS, arguments={"pause_s": 0.1}, stuck_after_s=0.6)
    async with fleet_of(slow) as fleet:
        request = Request(prompt="long", sampling=Sampling(max_tokens=600), deadline_s=1.5)
        items = [item async for item in fleet.generate(request)]
        assert isinstance(items[0], Delta) and isinstance(items[-1], Finish)
        assert fleet.replicas[0].num_starts == 1
