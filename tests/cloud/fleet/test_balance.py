"""Each policy shares requests as its name promises."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from cloud.fleet.balance import (
    POLICIES,
    LoadAware,
    Policy,
    PowerOfTwo,
    PrefixAware,
    ReplicaStatus,
    policy_named,
    prefix_of,
)
from offload.errors import SettingsError
from offload.messages import Message, Request


def fleet(*running: int, **more: float) -> list[ReplicaStatus]:
    return [ReplicaStatus(name=f"r{i}", num_running=n, **more) for i, n in enumerate(running)]


def keep_busy(policy: Policy, weights: list[float], rounds: int = 600) -> Counter[int]:
    """Let requests come and stay a while; return who got how many."""
    draw, running, got = random.Random(1), [0] * len(weights), Counter[int]()
    stays: list[int] = []
    for number in range(rounds):
        statuses = [
            ReplicaStatus(name=f"r{i}", num_running=n, weight=w)
            for i, (n, w) in enumerate(zip(running, weights, strict=True))
        ]
        chosen = policy.choose(statuses, str(number).encode())
        running[chosen] += 1
        got[chosen] += 1
        stays.append(chosen)
        if len(stays) > 20:
            running[stays.pop(draw.randrange(len(stays)))] -= 1
    return got


@pytest.mark.parametrize("name", POLICIES)
def test_equals_share_about_equally(name: str) -> None:
    got = keep_busy(policy_named(name), [1.0, 1.0, 1.0])
    assert min(got.values()) > 600 / 3 * 0.7


@pytest.mark.parametrize("name", POLICIES)
def test_a_lone_replica_gets_everything(name: str) -> None:
    assert {policy_named(name).choose(fleet(9), b"x") for _ in range(5)} == {0}


def test_weights_are_kept_and_evenly_spread() -> None:
    policy = policy_named("weighted")
    replicas = [ReplicaStatus(name=n, weight=w) for n, w in (("a", 5.0), ("b", 1.0), ("c", 1.0))]
    chosen = "".join(replicas[policy.choose(replicas, b"")].name for _ in range(14))
    assert chosen == "aabacaa" * 2


def test_the_least_busy_is_chosen() -> None:
    assert policy_named("least-connections").choose(fleet(3, 1, 2), b"") == 1


def test_of_two_drawn_the_less_busy_is_chosen() -> None:
    policy = PowerOfTwo(random.Random(2))
    got = Counter(policy.choose(fleet(9, 5, 0), b"") for _ in range(300))
    assert got[0] == 0 and got[2] > got[1] > 0


def test_a_slow_replica_and_one_with_a_full_cache_are_spared() -> None:
    slow = [ReplicaStatus(name="a", mean_s=4.0), ReplicaStatus(name="b", num_running=2, mean_s=1.0)]
    full = [ReplicaStatus(name="a", cache_use=1.0), ReplicaStatus(name="b", num_running=2)]
    assert LoadAware().choose(slow, b"") == LoadAware().choose(full, b"") == 1


def test_a_prefix_stays_where_its_cache_is() -> None:
    policy, before = PrefixAware(bound=4.0), {}
    for number in range(200):
        before[number] = policy.choose(fleet(1, 1, 1, 1), str(number).encode())
    three = fleet(1, 1, 1, 1)[:3]
    moved = [n for n in before if policy.choose(three, str(n).encode()) != before[n]]
    assert moved and all(before[n] == 3 for n in moved), "only those of the one that left move"


def test_a_popular_prefix_does_not_drown_its_replica() -> None:
    policy, running = PrefixAware(bound=1.25), [0, 0, 0]
    for _ in range(90):
        running[policy.choose(fleet(*running), b"the same")] += 1
    assert max(running) <= 1.25 * 91 / 3 + 1


def test_conversations_that_begin_alike_have_one_prefix() -> None:
    system = Message(role="system", content="s" * 2000)
    first, second = (
        Request(messages=(system, Message(role="user", content=text))) for text in ("a", "b")
    )
    assert prefix_of(first) == prefix_of(second) != prefix_of(Request(prompt="a"))


def test_a_policy_there_is_not_is_told_with_those_there_are() -> None:
    with pytest.raises(SettingsError, match="power-of-two"):
        policy_named("best")
