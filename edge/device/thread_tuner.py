"""The threads of a runtime's steps, set by a governor between them or fixed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from edge.device.cores import num_usable_cores
from edge.device.cpu_load import OthersLoad
from edge.device.device_pressure import Ceiling
from edge.device.governor import Governor


class Threaded(Protocol):
    """Whatever computes steps with a number of threads that can be changed between them."""

    def set_threads(self, decode: int, prefill: int, /) -> None:
        """Take the threads for the steps of an answer, and for those of a prompt."""


class ThreadTuner:
    """Times decode steps and sets the threads of the next; `fixed_threads` 0 is governed.

    All of `computing` have the same threads. `others` has best been watching since before the
    model was loaded, so that the first prompt is read by the cores that were free meanwhile.
    """

    def __init__(
        self, *computing: Threaded, fixed_threads: int = 0, others: OthersLoad | None = None
    ) -> None:
        self._computing = computing
        self._governor: Governor | None = None
        self._set = (fixed_threads, fixed_threads)
        if fixed_threads == 0:
            cores, others = num_usable_cores(), others or OthersLoad()
            self._governor = Governor(
                cores, others=others, ceiling=Ceiling(cores), first_others=others() or 0.0
            )

    def before_prompt(self) -> None:
        """Look at what else runs and set the threads for a prompt, or its next piece."""
        if self._governor is not None:
            self._governor.look()
            self._apply(self._governor)

    @contextmanager
    def step(self, *, plain: bool = True, num_answers: int = 1) -> Iterator[None]:
        """Time one decode step, and set the threads of the next.

        The seconds of a step of several tokens of one answer are no measure, so it is not `plain`.
        """
        if self._governor is None:
            yield
            return
        started = time.perf_counter()
        yield
        if plain:
            self._governor.step(time.perf_counter() - started, num_answers)
        else:
            self._governor.look()
        self._apply(self._governor)

    def _apply(self, governor: Governor) -> None:
        wanted = (governor.threads, governor.prefill_threads)
        if wanted != self._set:
            self._set = wanted
            for each in self._computing:
                each.set_threads(*wanted)
