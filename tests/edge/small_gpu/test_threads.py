"""The governor over torch's steps, on machines that are told."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import pytest
import torch

from backbone.sampling import Sampler, SamplingValues
from edge.device.governor import Governor, ThreadTuner
from edge.small_gpu.governed_step import GovernedStep, TorchThreads, governed
from edge.small_gpu.runtime import TorchEdgeEngine, TorchOptions
from engine.torch.sequence import Sequence as Tokens
from engine.torch.step import Slice, StepResult
from offload.messages import Request, Sampling
from offload.pair import CLOUD_MODEL


@pytest.fixture(autouse=True)
def as_they_were() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


class Told:
    """A tuner that sets what it is told, and notes what it was asked."""

    def __init__(self, threads: TorchThreads, plan: list[tuple[int, int]]) -> None:
        self.threads, self.plan = threads, plan
        self.asked: list[str] = []

    def before_prompt(self) -> None:
        self.asked.append("prompt")
        self.threads.set_threads(*self.plan[0])

    def step(self, *, plain: bool, num_answers: int) -> Any:
        import contextlib

        @contextlib.contextmanager
        def timed() -> Iterator[None]:
            yield
            self.asked.append(f"{'plain' if plain else 'wide'} {num_answers}")
            if len(self.plan) > 1:
                del self.plan[0]
            self.threads.set_threads(*self.plan[0])

        return timed()


def part(num_tokens: int) -> Slice:
    sampler = Sampler(SamplingValues())
    return Slice(Tokens([1] * num_tokens, max_tokens=1, sampler=sampler), num_tokens)


def recorded(plan: list[tuple[int, int]]) -> tuple[GovernedStep, Told, list[int]]:
    seen: list[int] = []
    tuners: list[Told] = []

    def step(slices: Sequence[Slice]) -> list[StepResult]:
        seen.append(torch.get_num_threads())
        return [StepResult() for _ in slices]

    def tuner_of(threads: TorchThreads) -> ThreadTuner:
        tuners.append(Told(threads, plan))
        return cast("ThreadTuner", tuners[0])

    return GovernedStep(step, tuner_of=tuner_of), tuners[0], seen


def test_prompts_and_answers_have_the_threads_that_were_set_for_them() -> None:
    step, tuner, seen = recorded([(1, 3), (2, 3), (1, 1)])
    step([part(40)])
    step([part(1)])
    step([part(1), part(1)])
    step([part(1), part(7)])
    assert seen == [3, 2, 1, 1]
    assert tuner.asked == ["prompt", "wide 1", "plain 1", "plain 2", "prompt", "wide 2"]


def test_a_step_that_fails_is_no_measure_and_the_next_one_counts() -> None:
    step, tuner, _ = recorded([(2, 2)])

    def broken(slices: Sequence[Slice]) -> list[StepResult]:
        raise RuntimeError("broken")

    working, step.step = step.step, broken
    with pytest.raises(RuntimeError):
        step([part(1)])
    step.step = working
    step([part(1)])
    assert tuner.asked == ["plain 1"]


class Neighbours:
    """A machine on which others use as many cores as a test says, at a clock of its own."""

    def __init__(self) -> None:
        self.now, self.busy = 0.0, 0.0

    def tuner_of(self, threads: TorchThreads) -> ThreadTuner:
        tuner = ThreadTuner(threads, fixed_threads=1)
        tuner.governor = Governor(lambda: 4, others=lambda: self.busy, clock=lambda: self.now)
        return tuner


def test_it_gives_way_to_others_and_takes_the_cores_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """With real seconds of steps replaced by the machine's own."""
    machine, seen = Neighbours(), []
    monkeypatch.setattr("edge.device.governor.time.perf_counter", lambda: machine.now)

    def step(slices: Sequence[Slice]) -> list[StepResult]:
        threads = torch.get_num_threads()
        seen.append(threads)
        free = 4 - machine.busy
        machine.now += 0.1 / threads if threads <= free else 0.4
        return [StepResult() for _ in slices]

    paced = GovernedStep(step, tuner_of=machine.tuner_of)

    def run(num_steps: int) -> int:
        paced([part(16)])
        for _ in range(num_steps):
            paced([part(1)])
        return seen[-1]

    assert run(40) == 4
    machine.busy = 3.0
    assert run(40) == 1
    machine.busy = 0.0
    assert run(200) == 4


def same(slices: Sequence[Slice]) -> list[StepResult]:
    raise AssertionError(slices)


@pytest.mark.parametrize(
    ("device", "num_threads", "wrapped"), [("cpu", 0, True), ("cpu", 2, False), ("cuda", 0, False)]
)
def test_it_governs_where_the_cpu_computes_and_no_number_is_fixed(
    device: str, num_threads: int, wrapped: bool
) -> None:
    found: Callable[..., Any] = governed(same, torch.device(device), num_threads)
    assert isinstance(found, GovernedStep) == wrapped and (wrapped or found is same)


def test_governed_answers_are_those_of_one_thread() -> None:
    answers = []
    for num_threads in (0, 1):
        options = TorchOptions(device="cpu", num_threads=num_threads)
        engine = TorchEdgeEngine(CLOUD_MODEL, options=options)
        request = Request(prompt="How many", sampling=Sampling(max_tokens=24))
        answers.append([getattr(item, "token_ids", None) for item in engine.answer(request)])
        engine.close()
    assert answers[0] == answers[1]
