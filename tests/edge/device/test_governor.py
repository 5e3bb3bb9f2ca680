"""The governor on a simulated machine, with the speeds that were measured on a real one."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from edge.device.cpu_load import OthersLoad, busy_seconds
from edge.device.governor import Governor

# Tokens per second of decode by busy neighbours, then by threads: a 0.5B model on two cores.
SPEED = {0: {1: 11.8, 2: 19.0}, 1: {1: 12.4, 2: 6.4}, 2: {1: 10.8, 2: 1.5}}


class Machine:
    """Two cores, neighbours that come and go, and a clock that steps move on."""

    def __init__(
        self,
        neighbours: Callable[[float], int],
        *,
        speed=SPEED,
        visible: bool = True,
        seed: int = 1,
    ) -> None:
        self.now = 0.0
        self._neighbours = neighbours
        self._speed = speed
        self._visible = visible
        self._random = random.Random(seed)
        self._since, self._busy = 0.0, 0.0
        self.threads = 2

    def step(self, threads: int) -> float:
        neighbours = self._neighbours(self.now)
        seconds = 1 / self._speed[neighbours][threads] * self._random.uniform(0.94, 1.06)
        cores_left = 2 - min(threads, 2) * 2 / max(2, threads + neighbours)
        self._busy += seconds * min(neighbours, max(cores_left, 2 * neighbours / (2 + neighbours)))
        self.now += seconds
        return seconds

    def others(self) -> float | None:
        elapsed = self.now - self._since
        if not self._visible or elapsed < 0.05:
            return None
        found = self._busy / elapsed + self._random.uniform(0, 0.08)
        self._since, self._busy = self.now, 0.0
        return found


def _throughput(machine: Machine, choose: Callable[[float], int], seconds: float = 60) -> float:
    steps, threads = 0, 2
    while machine.now < seconds:
        threads = choose(machine.step(threads))
        steps += 1
    return steps / machine.now


def _governed(neighbours: Callable[[float], int], **machine: object) -> float:
    device = Machine(neighbours, **machine)  # type: ignore[arg-type]
    governor = Governor(lambda: 2, others=device.others, clock=lambda: device.now)
    return _throughput(device, governor.step)


def _best_fixed(neighbours: Callable[[float], int], **machine: object) -> float:
    def fixed(threads: int) -> float:
        return _throughput(Machine(neighbours, **machine), lambda _: threads)  # type: ignore

    return max(fixed(1), fixed(2))


LOADS = {
    "idle": lambda now: 0,
    "one busy core": lambda now: 1,
    "every core busy": lambda now: 2,
    "comes and goes": lambda now: int(now / 3) % 2,
    "a build now and then": lambda now: 2 if int(now / 5) % 3 == 0 else 0,
}


@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_within_five_per_cent_of_the_best_fixed_setting(load: str, seed: int) -> None:
    neighbours = LOADS[load]
    assert _governed(neighbours, seed=seed) >= 0.95 * _best_fixed(neighbours, seed=seed)


def test_better_than_both_usual_defaults() -> None:
    idle_half = _throughput(Machine(LOADS["idle"]), lambda _: 1)
    assert _governed(LOADS["idle"]) >= 1.4 * idle_half
    busy_all = _throughput(Machine(LOADS["one busy core"]), lambda _: 2)
    assert _governed(LOADS["one busy core"]) >= 1.6 * busy_all


@pytest.mark.parametrize("load", ["idle", "one busy core", "every core busy"])
def test_without_sight_of_others_step_times_alone_decide(load: str) -> None:
    governed = _governed(LOADS[load], visible=False)
    assert governed >= 0.8 * _best_fixed(LOADS[load])


def test_model_too_small_for_two_threads_gets_one() -> None:
    speed = {0: {1: 3000.0, 2: 1800.0}}
    assert _governed(LOADS["idle"], speed=speed) >= 0.95 * 3000


def test_quiet_machine_does_not_flicker() -> None:
    device = Machine(LOADS["idle"])
    governor = Governor(lambda: 2, others=device.others, clock=lambda: device.now)
    chosen = []
    for _ in range(1000):
        chosen.append(governor.step(device.step(governor.threads)))
    assert chosen.count(2) > 0.95 * len(chosen)


def test_first_steps_follow_the_guess() -> None:
    for others, expected in ((0.0, 8), (5.5, 2), (30.0, 1)):
        governor = Governor(lambda: 8, others=lambda: None, first_others=others)
        assert governor.threads == governor.prefill_threads == expected


def test_guess_is_not_tried_against_before_others_were_watched() -> None:
    now = [100.0]
    governor = Governor(lambda: 4, others=lambda: None, first_others=3.0, clock=lambda: now[0])
    for _ in range(100):
        now[0] += 0.001
        assert governor.step(0.001) == 1


def test_one_core_is_one_thread() -> None:
    governor = Governor(lambda: 1, others=lambda: 0.0)
    assert {governor.step(0.1) for _ in range(50)} == {1} and governor.prefill_threads == 1


def test_prompts_use_the_free_cores() -> None:
    busy = [0.0]
    governor = Governor(lambda: 8, others=lambda: busy[0], clock=lambda: 0.0)
    for others, expected in ((0.0, 8), (2.0, 6), (2.5, 5), (7.9, 1), (20.0, 1)):
        busy[0] = others
        governor.look()
        assert governor.prefill_threads == expected


def test_load_of_others_leaves_out_our_own() -> None:
    now, counters = [0.0], [(10.0, 4.0)]
    cores = [frozenset({0, 1})]
    load = OthersLoad(counters=lambda: counters[0], allowed=lambda: cores[0], clock=lambda: now[0])
    now[0] = 0.01
    assert load() is None, "too short to tell"
    now[0], counters[0] = 2.0, (13.0, 5.0)
    assert load() == pytest.approx(1.0)
    now[0], counters[0] = 4.0, (14.0, 6.5)
    assert load() == 0.0
    now[0], counters[0], cores[0] = 6.0, (99.0, 6.5), frozenset({1})
    assert load() is None, "the counters were of other cores"
    now[0], counters[0] = 8.0, (101.0, 6.5)
    assert load() == 1.0


def test_counters_of_this_machine_only_grow() -> None:
    first, second = busy_seconds(), busy_seconds()
    assert second[0] >= first[0] >= 0 and second[1] >= first[1] > 0


def test_the_first_look_replaces_the_guess_at_once() -> None:
    governor = Governor(lambda: 4, others=lambda: 0.0, first_others=4.0, clock=lambda: 0.0)
    assert governor.threads == 1, "what was seen while the model was loaded"
    governor.look()
    assert governor.threads == 4


def test_a_guess_stands_while_nobody_can_be_seen() -> None:
    governor = Governor(lambda: 4, others=lambda: None, first_others=2.0, clock=lambda: 0.0)
    governor.look()
    assert governor.threads == 2


def test_cores_that_are_taken_away_or_granted_in_mid_answer_change_the_threads() -> None:
    now, cores = [0.0], [2]

    def threads_after(seconds: float) -> int:
        until = now[0] + seconds
        while now[0] < until:
            now[0] += 0.05
            governor.step(0.05 / min(governor.threads, cores[0]))
        return governor.threads

    governor = Governor(lambda: cores[0], others=lambda: 0.0, clock=lambda: now[0])
    assert threads_after(1.0) == 2
    cores[0] = 1
    assert threads_after(1.0) == 1 and governor.prefill_threads == 1
    cores[0] = 2
    assert threads_after(5.0) == 2 and governor.prefill_threads == 2


def test_trials_of_fewer_threads_cost_a_hundredth_of_long_steps_at_most() -> None:
    """A step of eight answers is long, and in one thread twice as long."""
    now, lost = [0.0], 0.0
    governor = Governor(lambda: 2, others=lambda: 0.0, clock=lambda: now[0])
    for _ in range(1000):
        seconds = 0.15 if governor.threads == 2 else 0.29
        lost += seconds - 0.15
        now[0] += seconds
        governor.step(seconds, num_answers=8)
    assert 0 < lost <= 0.015 * now[0]
