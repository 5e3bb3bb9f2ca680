"""The placement of each replica: its GPU, its cores, and its weight in the balance."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from offload.errors import SettingsError


@dataclass(frozen=True, kw_only=True)
class ReplicaPlacement:
    """One replica's placement; no `gpu` leaves the choice to its device, no `cores` all of them."""

    weight: float = 1.0
    gpu: str = ""
    cores: tuple[int, ...] = ()

    def environment(self) -> dict[str, str]:
        """Return the environment variables of its process."""
        made = {"CUDA_VISIBLE_DEVICES": self.gpu} if self.gpu else {}
        if self.cores and "OMP_NUM_THREADS" not in os.environ:
            made["OMP_NUM_THREADS"] = str(len(self.cores))
        return made


def placements_for(
    count: int,
    *,
    weights: str = "",
    gpus: str = "",
    cores: str = "",
    device: str = "auto",
    allowed: Sequence[int] | None = None,
    environment: Mapping[str, str] = os.environ,
) -> list[ReplicaPlacement]:
    """Return a placement for each of `count` replicas. Raises SettingsError.

    `weights` and `gpus` have commas between them; `cores` are groups such as 0-3,4-7, or `auto`,
    which shares out those `allowed`. With device cuda and no `gpus`, each replica gets the next of
    CUDA_VISIBLE_DEVICES, or of all.
    """
    if not gpus and device == "cuda":
        gpus = environment.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(count)))
        named = gpus.split(",")[:count]
    else:
        named = gpus.split(",") if gpus else [""] * count
    if gpus and device == "cpu":
        raise SettingsError("--gpus needs --device cuda or auto; leave one of them out")
    _as_many("GPUs", named, count)
    shares = [_weight(each) for each in weights.split(",")] if weights else [1.0] * count
    _as_many("weights", shares, count)
    groups = _groups(cores, count, allowed_cores() if allowed is None else allowed)
    return [
        ReplicaPlacement(weight=weight, gpu=gpu.strip(), cores=group)
        for weight, gpu, group in zip(shares, named, groups, strict=True)
    ]


def _groups(text: str, count: int, allowed: Sequence[int]) -> list[tuple[int, ...]]:
    if not text:
        return [()] * count
    if text == "auto":
        return _shared_out(count, allowed)
    groups = [_group(each, allowed) for each in text.split(",")]
    _as_many("groups of cores", groups, count)
    return groups


def _shared_out(count: int, allowed: Sequence[int]) -> list[tuple[int, ...]]:
    """Return neighbouring cores for each, as evenly as can be; fewer cores than that are shared."""
    if len(allowed) < count:
        return [(allowed[number % len(allowed)],) for number in range(count)]
    edges = [len(allowed) * number // count for number in range(count + 1)]
    return [tuple(allowed[edges[n] : edges[n + 1]]) for n in range(count)]


def _group(text: str, allowed: Sequence[int]) -> tuple[int, ...]:
    first, dash, last = text.strip().partition("-")
    if not first.isdecimal() or (dash and not last.isdecimal()):
        raise SettingsError(f"--cores: {text!r} is no group of cores; write 0-3,4-7 or auto")
    group = tuple(range(int(first), int(last or first) + 1))
    if not group or not set(group) <= set(allowed):
        raise SettingsError(
            f"--cores: {text!r} is not within the cores of this process, "
            f"{allowed[0]} to {allowed[-1]}"
        )
    return group


def _weight(text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not 0 < weight < 1e6:
        raise SettingsError(f"--replica-weights: {text!r} is no weight; write numbers above 0")
    return weight


def _as_many(what: str, given: Sequence[object], count: int) -> None:
    if len(given) != count:
        raise SettingsError(f"there are {count} replicas and {len(given)} {what}; give one each")


def allowed_cores() -> list[int]:
    """Return the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))
