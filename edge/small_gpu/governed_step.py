"""Governed step: a step of torch on the CPU with as many threads as there are cores free."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from edge.device.governor import ThreadTuner
from engine.torch.runner import Step
from engine.torch.step import Slice, StepResult


class TorchThreads:
    """Torch's threads in the thread that computes; at first those that torch has."""

    def __init__(self) -> None:
        self._decode = self._prefill = torch.get_num_threads()

    def set_threads(self, decode: int, prefill: int) -> None:
        """Take the threads for the steps of an answer, and for those of a prompt."""
        self._decode, self._prefill = decode, prefill

    def use(self, *, plain: bool) -> None:
        """Let torch compute the next step with them."""
        wanted = self._decode if plain else self._prefill
        if torch.get_num_threads() != wanted:
            torch.set_num_threads(wanted)


class GovernedStep:
    """Governed step: computed with the threads that a tuner sets, in the engine's thread."""

    def __init__(
        self,
        step: Step,
        *,
        threads: TorchThreads | None = None,
        tuner_of: Callable[[TorchThreads], ThreadTuner] = ThreadTuner,
    ) -> None:
        self.step = step
        self._threads = threads or TorchThreads()
        self._tuner = tuner_of(self._threads)

    def __call__(self, slices: Sequence[Slice]) -> list[StepResult]:
        """Return what became of each slice."""
        plain = all(each.num_tokens == 1 for each in slices)
        if not plain:
            self._tuner.before_prompt()
        self._threads.use(plain=plain)
        with self._tuner.step(plain=plain, num_answers=len(slices)):
            return self.step(slices)


def governed(step: Step, device: torch.device, num_threads: int) -> Step:
    """Return the step under a governor where torch computes on the CPU and no number is fixed."""
    return GovernedStep(step) if device.type == "cpu" and num_threads == 0 else step
