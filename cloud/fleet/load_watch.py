"""Load watch: what the scaling policies read of running replicas, at one moment."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import psutil

from backbone.nvml import GpuReading, read_gpus
from cloud.fleet.autoscale import LoadSample
from cloud.fleet.replica import Replica, ReplicaOptions
from cloud.fleet.replica_placement import allowed_cores
from cloud.fleet.replica_process import ReplicaProcess
from cloud.fleet.replicas import Replicas


class CpuUse:
    """CPU use of processes since the last look, as a share of the cores that each may use."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[int, tuple[float, float]] = {}  # seconds of CPU, and when, by process id

    def share(self, pid: int, num_cores: int) -> float:
        """Return the share, 0 to 1; 0 at the first look, and of a process that has ended."""
        try:
            times = psutil.Process(pid).cpu_times()
        except psutil.Error:
            self._seen.pop(pid, None)
            return 0.0
        used_s, now_s = times.user + times.system, self._clock()
        before_s, at_s = self._seen.get(pid, (used_s, now_s))
        self._seen[pid] = used_s, now_s
        passed_s = (now_s - at_s) * num_cores
        return min(1.0, max(0.0, (used_s - before_s) / passed_s)) if passed_s > 0 else 0.0

    def forget_all_but(self, pids: set[int]) -> None:
        """Forget the processes that are no longer looked at."""
        self._seen = {pid: seen for pid, seen in self._seen.items() if pid in pids}


def num_cores(options: ReplicaOptions) -> int:
    """Return how many cores a replica computes on: those it may, at most one for each thread."""
    cores = len(options.cores) or len(allowed_cores())
    threads = {**os.environ, **options.environment}.get("OMP_NUM_THREADS", "")
    return min(cores, int(threads)) if threads.isdecimal() and int(threads) else cores


class LoadWatch:
    """Load watch of replicas; `sample` is meant to be called every second or so."""

    def __init__(
        self,
        replicas: Replicas,
        *,
        clock: Callable[[], float] = time.monotonic,
        gpus: Callable[[], list[GpuReading]] = read_gpus,
    ) -> None:
        self._replicas, self._clock, self._read_gpus = replicas, clock, gpus
        self._cpu = CpuUse(clock)

    def sample(self) -> LoadSample:
        """Return the load now. One that leaves is no longer counted, nor is what it still does."""
        replicas = self._replicas.replicas
        gpus = self._read_gpus() if any(map(_gpu_of, replicas)) else []
        shares = [self._use(replica, gpus) for replica in replicas if replica.is_ready]
        ready = [each for each in replicas if each.is_ready and isinstance(each, ReplicaProcess)]
        self._cpu.forget_all_but({replica.pid for replica in ready})
        return LoadSample(
            at_s=self._clock(),
            num_replicas=len(replicas),
            num_starting=len(replicas) - len(shares),
            ongoing=self._replicas.num_ongoing,
            utilization=sum(shares) / len(replicas) if replicas else 0.0,
            latency_s=self._replicas.latency.mean_s(),
        )

    def _use(self, replica: Replica, gpus: list[GpuReading]) -> float:
        """Return the use of a replica's own GPU, or of its cores where no GPU of it is read."""
        for gpu in gpus:
            if gpu.utilization is not None and gpu.is_named(_gpu_of(replica)):
                return gpu.utilization
        if not isinstance(replica, ReplicaProcess):
            return 0.0  # of another machine nothing is read
        return self._cpu.share(replica.pid, num_cores(replica.options))


def _gpu_of(replica: Replica) -> str:
    return replica.options.environment.get("CUDA_VISIBLE_DEVICES", "")
