"""A simulation of autoscaling: a load is played to a scaler, which shows replicas and waits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cloud.fleet.autoscale import LoadSample, Scaler


@dataclass(frozen=True, kw_only=True)
class SimulatedStep:
    """One step of a simulation."""

    at_s: float
    arrivals_per_s: float
    queue: float
    num_replicas: int
    utilization: float
    wait_s: float


def simulate(
    load: Sequence[float],
    scaler: Scaler,
    *,
    step_s: float = 10.0,
    served_per_s: float = 1.0,
    concurrent: float = 2.0,
    start_s: float = 60.0,
    num_replicas: int = 1,
) -> list[SimulatedStep]:
    """Play `load`, in arrivals a second at each step, as a fluid queue.

    A replica serves `served_per_s`, writing `concurrent` answers at once, and one that is started
    is of use after `start_s`.
    """
    each_s = concurrent / served_per_s  # Little's law: how long one answer is in work
    seen: list[LoadSample] = []
    moments: list[SimulatedStep] = []
    starting: list[float] = []  # when each will be ready
    queue, ready = 0.0, num_replicas
    for number, arrivals_per_s in enumerate(load):
        at_s = number * step_s
        ready += sum(due <= at_s for due in starting)
        starting = [due for due in starting if due > at_s]
        could = ready * served_per_s * step_s
        demand = queue + arrivals_per_s * step_s
        served = min(demand, could)
        queue = demand - served
        utilization = served / could if could else 1.0
        wait_s = queue / (ready * served_per_s) if ready else queue
        seen.append(
            LoadSample(
                at_s=at_s,
                num_replicas=ready + len(starting),
                num_starting=len(starting),
                ongoing=queue + served / step_s * each_s,
                utilization=utilization,
                latency_s=wait_s + each_s,
            )
        )
        moments.append(
            SimulatedStep(
                at_s=at_s,
                arrivals_per_s=arrivals_per_s,
                queue=queue,
                num_replicas=ready,
                utilization=utilization,
                wait_s=wait_s,
            )
        )
        change = scaler.decide(seen) - (ready + len(starting))
        starting += [at_s + start_s] * max(0, change)
        ready, starting = _stop(ready, starting, max(0, -change))
    return moments


def _stop(ready: int, starting: list[float], count: int) -> tuple[int, list[float]]:
    """Stop first those that are not yet of use."""
    kept = starting[: max(0, len(starting) - count)]
    return ready - (count - (len(starting) - len(kept))), kept
