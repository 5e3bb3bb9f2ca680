"""Each replica runs where it was placed: seen by the environment and the cores of its process."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

import pytest

from cloud.endpoint_options import EndpointOptions
from cloud.fleet.balance import Weighted
from cloud.fleet.replica import ReplicaOptions
from cloud.fleet.replica_placement import ReplicaPlacement, placements_for
from cloud.fleet.replicas import Replicas
from offload.errors import SettingsError
from offload.messages import Request
from tests.cloud.fleet.test_replicas import OPTIONS, pid_of, said
from tests.waiting import until


@pytest.mark.parametrize(
    ("wish", "gpus"),
    [
        ({"gpus": "0,2"}, ["0", "2"]),
        ({"device": "cuda"}, ["0", "1"]),
        ({"device": "cuda", "environment": {"CUDA_VISIBLE_DEVICES": "3,5,6"}}, ["3", "5"]),
        ({"gpus": "GPU-a,GPU-b", "device": "cuda"}, ["GPU-a", "GPU-b"]),
        ({"device": "cpu"}, ["", ""]),
    ],
)
def test_each_replica_has_a_gpu_of_its_own(wish: dict[str, Any], gpus: list[str]) -> None:
    assert [place.gpu for place in placements_for(2, **{"environment": {}, **wish})] == gpus


@pytest.mark.parametrize(
    ("count", "cores", "groups"),
    [
        (2, "auto", [(0, 1), (2, 3, 5)]),
        (3, "auto", [(0,), (1, 2), (3, 5)]),
        (7, "auto", [(0,), (1,), (2,), (3,), (5,), (0,), (1,)]),
        (2, "0-1,5", [(0, 1), (5,)]),
        (2, "", [(), ()]),
    ],
)
def test_cores_are_shared_out_in_groups(count: int, cores: str, groups: list[Any]) -> None:
    made = placements_for(count, cores=cores, allowed=[0, 1, 2, 3, 5])
    assert [place.cores for place in made] == groups


@pytest.mark.parametrize(
    ("wish", "says"),
    [
        ({"weights": "1,2,3"}, "2 replicas and 3 weights"),
        ({"weights": "1,x"}, "'x' is no weight"),
        ({"weights": "1,0"}, "above 0"),
        ({"gpus": "0"}, "2 replicas and 1 GPUs"),
        ({"gpus": "0,1", "device": "cpu"}, "--device cuda"),
        ({"cores": "0-9,1"}, "not within the cores"),
        ({"cores": "a,b"}, "no group of cores"),
        ({"device": "cuda", "environment": {"CUDA_VISIBLE_DEVICES": "3"}}, "1 GPUs"),
    ],
)
def test_a_place_that_there_is_not_is_refused(wish: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        placements_for(2, **{"environment": {}, "allowed": [0, 1], **wish})


def test_places_are_for_several_replicas() -> None:
    with pytest.raises(SettingsError, match="above 1"):
        EndpointOptions(gpus="0")


async def test_a_process_sees_its_gpu_and_its_cores_and_gets_its_share(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    core = sorted(os.sched_getaffinity(0))[-1]
    places = [ReplicaPlacement(gpu="7", cores=(core,), weight=3.0), ReplicaPlacement(gpu="9")]

    def options(number: int) -> ReplicaOptions:
        place = places[number]
        return ReplicaOptions(
            engine=OPTIONS.engine,
            environment=place.environment(),
            cores=place.cores,
            weight=place.weight,
        )

    fleet = Replicas(options, num_replicas=2, policy=Weighted())
    try:
        await fleet.start()
        await until(lambda: all(replica.is_ready for replica in fleet.replicas))
        told = {await said(fleet, Request(prompt="where")) for _ in range(4)}
        everywhere = ",".join(map(str, sorted(os.sched_getaffinity(0))))
        assert told == {f"7 1 {core}", f"9  {everywhere}"}
        got = Counter([await pid_of(fleet) for _ in range(8)])
        assert got[fleet.replicas[0].pid] == 6, "three in four"
    finally:
        await fleet.aclose()
