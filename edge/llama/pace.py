"""The threads of a context, set by a governor between steps or fixed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from edge.device.cores import num_usable_cores
from edge.device.governor import Governor
from edge.device.load import OthersLoad, recent_load
from edge.device.strain import Ceiling
from edge.llama.context import Context


class Pace:
    """Times decode steps and sets the threads of the next; `fixed_threads` 0 is governed.

    The first context is timed, all have the same threads.
    """

    def __init__(self, *contexts: Context, fixed_threads: int = 0) -> None:
        self._contexts = contexts
        self._governor: Governor | None = None
        self._set = (fixed_threads, fixed_threads)
        if fixed_threads == 0:
            cores = num_usable_cores()
            self._governor = Governor(
                cores, others=OthersLoad(), ceiling=Ceiling(cores), first_others=recent_load()
            )

    def before_prompt(self) -> None:
        """Look at what else runs and set the threads for a prompt."""
        if self._governor is not None:
            self._governor.look()
            self._apply(self._governor)

    @contextmanager
    def step(self, *, plain: bool = True) -> Iterator[None]:
        """Time one decode step, and set the threads of the next.

        The seconds of a step of several tokens are no measure, so it is not `plain`.
        """
        if self._governor is None:
            yield
            return
        started = time.perf_counter()
        yield
        if plain:
            self._governor.step(time.perf_counter() - started)
        else:
            self._governor.look()
        self._apply(self._governor)

    def _apply(self, governor: Governor) -> None:
        wanted = (governor.threads, governor.prefill_threads)
        if wanted != self._set:
            self._set = wanted
            for context in self._contexts:
                context.set_threads(*wanted)
