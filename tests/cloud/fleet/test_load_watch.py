"""What scaling policies read: how much of its cores a process uses, how long answers take."""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace
from typing import cast

import pytest

from cloud.fleet.load_watch import CpuUse, LoadWatch, num_cores
from cloud.fleet.recent_latency import RecentLatency
from cloud.fleet.replica import ReplicaOptions
from cloud.fleet.replicas import Replicas
from tests.backbone.fake_nvml import fake_nvml


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def busy_until(seconds: float) -> None:
    """Compute until this process has used so many seconds of a processor more."""
    end_s = sum(os.times()[:2]) + seconds
    while sum(os.times()[:2]) < end_s:
        sum(range(1000))


def test_use_is_a_share_of_the_cores_that_there_are() -> None:
    clock = Clock()
    use = CpuUse(clock)
    assert use.share(os.getpid(), 2) == 0.0, "nothing is known before"
    busy_until(0.1)
    clock.now_s += 0.5
    assert 0.09 <= use.share(os.getpid(), 2) <= 0.5
    clock.now_s += 1000.0
    assert use.share(os.getpid(), 2) < 0.01


def test_a_process_that_has_ended_uses_nothing() -> None:
    assert CpuUse().share(2**22 + 1, 1) == 0.0


def test_a_replica_computes_on_the_cores_it_has_and_the_threads_it_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert num_cores(ReplicaOptions(cores=(0, 1, 2))) == 3
    assert num_cores(ReplicaOptions(cores=(0, 1), environment={"OMP_NUM_THREADS": "1"})) == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert num_cores(ReplicaOptions(cores=(0, 1, 2))) == 2


class Alone:
    """A fleet of one replica on a GPU of its own."""

    def __init__(self, gpu: str) -> None:
        options = ReplicaOptions(environment={"CUDA_VISIBLE_DEVICES": gpu})
        self.replicas = (SimpleNamespace(options=options, is_ready=True, pid=os.getpid()),)
        self.num_ongoing, self.latency = 3, RecentLatency()


def test_the_use_of_a_replica_with_a_gpu_is_that_of_its_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml([25, 100]))
    shares = [
        LoadWatch(cast(Replicas, Alone(gpu))).sample().utilization
        for gpu in ("0", "1", "GPU-1a5f2d10", "7")
    ]
    assert shares == [0.25, 1.0, 1.0, 0.0], "of a GPU that is not read, that of the cores"


def test_latency_is_that_of_the_answers_that_ended_lately() -> None:
    clock = Clock()
    latency = RecentLatency(window_s=30.0, clock=clock)
    assert latency.mean_s() == 0.0
    latency.note_end(clock() - 4.0)
    clock.now_s += 20.0
    latency.note_end(clock() - 2.0)
    assert latency.mean_s() == 3.0
    clock.now_s += 15.0
    assert latency.mean_s() == 2.0
    clock.now_s += 30.0
    assert latency.mean_s() == 0.0
