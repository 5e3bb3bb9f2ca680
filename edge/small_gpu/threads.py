"""torch's threads, as many as cores are free: the governor that llama.cpp's steps have, too.

On a CPU torch takes every core for every product, and all of its threads wait for the slowest:
where another program has one of the cores, each product waits for that program.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from edge.device.thread_tuner import ThreadTuner
from edge.small_gpu.sampling_step import SampledToken
from edge.small_gpu.step import StepPart

Stepping = Callable[[Sequence[StepPart]], list[list[SampledToken]]]


class TorchThreads:
    """The threads of torch in the thread that computes; at first those that torch has."""

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
    """Computes steps with the threads that a pace sets; it lives in the engine's thread."""

    def __init__(
        self,
        step: Stepping,
        *,
        threads: TorchThreads | None = None,
        pace_of: Callable[[TorchThreads], ThreadTuner] = ThreadTuner,
    ) -> None:
        self._step = step
        self._threads = threads or TorchThreads()
        self._pace = pace_of(self._threads)

    def __call__(self, parts: Sequence[StepPart]) -> list[list[SampledToken]]:
        """Return what the step finds in the rows of each part."""
        plain = all(len(part.tokens) == 1 for part in parts)
        if not plain:
            self._pace.before_prompt()
        self._threads.use(plain=plain)
        with self._pace.step(plain=plain, num_answers=len(parts)):
            return self._step(parts)


def governed(step: Stepping, device: torch.device, num_threads: int) -> Stepping:
    """Return the step under a governor where torch computes on the CPU and no number is fixed."""
    return GovernedStep(step) if device.type == "cpu" and num_threads == 0 else step
