"""Balancing policies: which replica answers, by what is known of each.

A policy takes the replicas that can be asked and a request's prefix key, and returns the index of
one. Ties go to the one that was chosen least lately, so that equals share.
"""

from __future__ import annotations

import hashlib
import random
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from offload.errors import SettingsError
from offload.messages import EngineLoad, Request

_PREFIX_CHARS = 1024  # of a prompt; conversations that share so much share their cache
_POINTS = 64  # of each replica on the ring


@dataclass(frozen=True, kw_only=True)
class ReplicaStatus:
    """The status of one replica.

    `num_running` are its answers in flight, `mean_s` how long its last ones took, `cache_use` the
    share of its KV cache that is taken.
    """

    name: str
    num_running: int = 0
    weight: float = 1.0
    mean_s: float = 0.0
    cache_use: float = 0.0


class Policy(Protocol):
    """Balancing policy: chooses one of the replicas that are up."""

    def choose(self, replicas: Sequence[ReplicaStatus], prefix: bytes) -> int:
        """Return an index; there is at least one replica."""
        ...


@dataclass
class RoundRobin:
    """Round robin: each replica in its turn."""

    _next: int = 0

    def choose(self, replicas: Sequence[ReplicaStatus], prefix: bytes) -> int:
        self._next += 1
        return (self._next - 1) % len(replicas)


@dataclass
class Weighted:
    """Weighted round robin, evenly spread: nginx's smooth weighted round robin."""

    _credit: dict[str, float] = field(default_factory=dict)

    def choose(self, replicas: Sequence[ReplicaStatus], prefix: bytes) -> int:
        for each in replicas:
            self._credit[each.name] = self._credit.get(each.name, 0.0) + each.weight
        best = max(range(len(replicas)), key=lambda i: self._credit[replicas[i].name])
        self._credit[replicas[best].name] -= sum(each.weight for each in replicas)
        return best


@dataclass
class LeastConnections:
    """Least connections: the replica with the fewest answers in flight."""

    _turn: int = 0

    def choose(self, replicas: Sequence[ReplicaStatus], prefix: bytes) -> int:
        self._turn += 1
        return _least(replicas, self._turn, lambda each: float(each.num_running))


@dataclass
class PowerOfTwo:
    """Power of two choices: the less busy of two drawn at random (Mitzenmacher 2001)."""

    draw: random.Random = field(default_factory=random.Random)

    def choose(self, replicas: Sequence[ReplicaStatus], prefix: bytes) -> int:
        if len(replicas) == 1:
            return 0
        first, second = self.draw.sample(range(len(replicas)), 2)
        return min(first, second, key=lambda i: replicas[i].num_running)


@dataclass
class LoadAware:
    """Load-aware: the replica that would be done first; a full cache counts as in vLLM."""

    _turn: int = 0

    def choose(self, replicas: Sequence[ReplicaStatus], prefix: bytes) -> int:
        self._turn += 1
        known = [each.mean_s for each in replicas if each.mean_s > 0]
        usual_s = sum(known) / len(known) if known else 1.0

        def due_s(each: ReplicaStatus) -> float:
            work = (each.num_running + 1) * (each.mean_s or usual_s) / each.weight
            return work * (1.0 + 6.0 * max(0.0, each.cache_use - 0.5))

        return _least(replicas, self._turn, due_s)


@dataclass
class PrefixAware:
    """Prefix-aware: the replica that most likely holds the prompt's prefix, unless it is too busy.

    Consistent hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam 2018): no replica gets
    more than `bound` times the mean, and one that leaves moves only its own prompts.
    """

    bound: float = 1.25

    def choose(self, replicas: Sequence[ReplicaStatus], prefix: bytes) -> int:
        total = sum(each.num_running for each in replicas) + 1
        max_running = self.bound * total / len(replicas)
        at = _point(prefix)
        ring = sorted(
            ((_point(f"{each.name}/{n}".encode()), i) for i, each in enumerate(replicas)
             for n in range(_POINTS)),
            key=lambda spot: (spot[0] < at, spot[0]),
        )  # fmt: skip
        return next((i for _, i in ring if replicas[i].num_running < max_running), ring[0][1])


POLICIES: dict[str, Callable[[], Policy]] = {
    "round-robin": RoundRobin,
    "weighted": Weighted,
    "least-connections": LeastConnections,
    "power-of-two": PowerOfTwo,
    "load-aware": LoadAware,
    "prefix-aware": PrefixAware,
}


def policy_named(name: str) -> Policy:
    """Return a fresh policy. Raises SettingsError for a name there is not."""
    if name not in POLICIES:
        raise SettingsError(f"there is no balance {name!r}; known are {', '.join(POLICIES)}")
    return POLICIES[name]()


def prefix_of(request: Request) -> bytes:
    """Return what a prompt begins with: requests with the same share KV cache."""
    if request.prompt_token_ids:
        return array("q", request.prompt_token_ids[: _PREFIX_CHARS // 4]).tobytes()
    text = request.prompt or "\x00".join(f"{m.role}\x01{m.content}" for m in request.messages)
    return text[:_PREFIX_CHARS].encode("utf-8", "surrogatepass")


def _least(
    replicas: Sequence[ReplicaStatus], turn: int, cost: Callable[[ReplicaStatus], float]
) -> int:
    count = len(replicas)
    return min(range(count), key=lambda i: (cost(replicas[i]), (i - turn) % count))


def _point(key: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big")


def total_load(loads: Sequence[EngineLoad | None]) -> EngineLoad | None:
    """Return what the known loads come to; of their caches' use the mean. None where none is."""
    known = [load for load in loads if load is not None]
    if not known:
        return None
    return EngineLoad(
        num_running=sum(load.num_running for load in known),
        num_waiting=sum(load.num_waiting for load in known),
        num_batch=sum(load.num_batch for load in known),
        kv_cache_usage=sum(load.kv_cache_usage for load in known) / len(known),
        prefix_cache_queries=sum(load.prefix_cache_queries for load in known),
        prefix_cache_hits=sum(load.prefix_cache_hits for load in known),
        num_preemptions=sum(load.num_preemptions for load in known),
    )
