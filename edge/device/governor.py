"""Thread governor: how many threads the next step uses, from free cores and the time of steps.

A thread too many costs more than it brings: all threads of a step wait for the slowest, and one
that shares its core with another program is slow. So threads follow the cores that are free,
down at once and up after two looks, and the seconds of real steps decide where both are open
(small models, hardware threads, slow cores). Changing the number between steps costs nothing.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Protocol

from edge.device.cpu_load import OthersLoad, UsableCores
from edge.device.device_pressure import Ceiling

LOOK_S = 0.15  # between two looks at what others use
ROUND_UP = 0.35  # a core that is free to 65% is taken
TRIAL_STEPS = 3
RECENT_STEPS = 8
GAIN = 0.97  # a trial must be at least this much shorter
SPIKE = 1.4  # a step so much longer than usual calls for a look
FIRST_WAIT_S = 1.0  # between trials that failed, doubled each time
SHORT_WAIT_S, LONG_WAIT_S = 4.0, 60.0  # at most, for more threads and for fewer
TRIAL_SHARE = 0.01  # of the time that trials of fewer threads may cost, where others are seen
BLIND_S = 1.5  # without knowledge of others, after which only step times decide


@dataclass
class _Trial:
    """Trial of another number of threads for a few steps."""

    threads: int
    seconds: list[float]
    skip: int = 1  # the first step also warms the caches of the new cores
    cost_s: float = 0.0  # what its steps took beyond the usual


class _RetryDelay:
    """Retry delay of a change: twice as long after each failure."""

    def __init__(self) -> None:
        self.until = 0.0
        self._length = FIRST_WAIT_S

    def longer(self, now: float, longest_s: float, cost_s: float = 0.0) -> None:
        """Note a failure, which cost so much."""
        self.until = now + min(longest_s, max(self._length, cost_s / TRIAL_SHARE))
        self._length = min(2 * self._length, longest_s)


class Governor:
    """Governor of the threads of each step, as many as there are cores at most.

    `others` tells the cores that other programs use, or None where it cannot; `ceiling` the
    threads to use at most, on battery for instance. `first_others` is a guess to start with.
    """

    def __init__(
        self,
        cores: Callable[[], int],
        *,
        others: Callable[[], float | None],
        ceiling: Callable[[], int] | None = None,
        first_others: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cores = cores
        self._others = others
        self._ceiling = ceiling or cores
        self._clock = clock
        self._free = max(0.0, cores() - first_others)
        self._threads = self._wanted()
        self._trial: _Trial | None = None
        self._recent: deque[float] = deque(maxlen=RECENT_STEPS)
        self._looked = clock()
        self._guessing = True  # until others have been seen
        self._looks_up = 0
        self._num_answers = 1  # that the steps timed last were for
        self._waits: dict[tuple[int, int], _RetryDelay] = {}  # from threads, to threads

    @property
    def threads(self) -> int:
        """Return the threads of the next decode step."""
        return self._trial.threads if self._trial else self._threads

    @property
    def prefill_threads(self) -> int:
        """Return the threads for prompts: all free cores, since there is work for each."""
        return self._wanted()

    def look(self) -> None:
        """See what others use now; to be called before a prompt is read."""
        if (limit := self._limit()) < self.threads:
            self._settle(limit)
        others = self._others()
        if others is None:
            return
        self._looked = self._clock()
        self._free = max(0.0, self._cores() - others)
        wanted = self._wanted()
        if self._free < self._threads - 1 + ROUND_UP and wanted < self._threads:
            self._settle(wanted)
        if self._guessing and not self._recent:
            # Nothing has been timed, and what is seen now beats the guess that it began with.
            self._settle(wanted)
        self._guessing = False
        self._looks_up = self._looks_up + 1 if wanted > self._threads else 0

    def step(self, seconds: float, num_answers: int = 1) -> int:
        """Note how long a decode step took; return the threads of the next.

        Steps for another number of answers at once are not compared with those before.
        """
        now = self._clock()
        if num_answers != self._num_answers:
            self._num_answers, self._trial = num_answers, None
            self._recent.clear()
        spike = len(self._recent) >= TRIAL_STEPS and seconds > SPIKE * median(self._recent)
        if now - self._looked >= LOOK_S or spike:
            self.look()
        if self._trial is not None:
            self._judge(self._trial, seconds, now)
        else:
            self._recent.append(seconds)
            self._maybe_try(spike, now)
        return self.threads

    def _wanted(self) -> int:
        return max(1, min(self._limit(), int(self._free + ROUND_UP)))

    def _limit(self) -> int:
        return max(1, min(self._cores(), self._ceiling()))

    def _settle(self, threads: int) -> None:
        self._threads, self._trial = threads, None
        self._recent.clear()
        self._looks_up = 0

    def _maybe_try(self, spike: bool, now: float) -> None:
        """Start a trial where one is due: more threads when cores are free, fewer at times."""
        blind = self._blind(now)
        if len(self._recent) < TRIAL_STEPS:
            return
        if (self._looks_up >= 2 or (blind and self._threads < self._limit())) and self._try(
            self._wanted() if not blind else self._threads + 1, now
        ):
            return
        if self._threads > 1 and (len(self._recent) == RECENT_STEPS or (blind and spike)):
            self._try(self._threads - 1, now)

    def _try(self, threads: int, now: float) -> bool:
        if threads == self._threads or now < self._wait(threads).until:
            return False
        self._trial = _Trial(threads, [])
        return True

    def _wait(self, threads: int) -> _RetryDelay:
        return self._waits.setdefault((self._threads, threads), _RetryDelay())

    def _judge(self, trial: _Trial, seconds: float, now: float) -> None:
        usual = median(self._recent)
        trial.cost_s += seconds - usual
        if seconds > SPIKE * usual:
            self._give_up(trial, now)
        elif trial.skip > 0:
            trial.skip -= 1
        else:
            trial.seconds.append(seconds)
            if len(trial.seconds) == TRIAL_STEPS:
                self._compare(trial, usual, now)

    def _compare(self, trial: _Trial, usual: float, now: float) -> None:
        if median(trial.seconds) < GAIN * usual:
            self._settle(trial.threads)
            self._recent.extend(trial.seconds)
        else:
            self._give_up(trial, now)

    def _give_up(self, trial: _Trial, now: float) -> None:
        seen, more = not self._blind(now), trial.threads > self._threads
        longest_s = SHORT_WAIT_S if more and seen else LONG_WAIT_S
        # Unseen, others may have come just then, and their end is found by trials alone.
        self._wait(trial.threads).longer(now, longest_s, trial.cost_s if seen else 0.0)
        self._trial, self._looks_up = None, 0

    def _blind(self, now: float) -> bool:
        return now - self._looked > BLIND_S


class Threaded(Protocol):
    """Threaded runtime: its number of threads can be changed between steps."""

    def set_threads(self, decode: int, prefill: int, /) -> None:
        """Take the threads for the steps of an answer, and for those of a prompt."""


class ThreadTuner:
    """Thread tuner: times decode steps, sets threads of the next; `fixed_threads` 0 is governed.

    All of `computing` have the same threads. `others` has best been watching since before the
    model was loaded, so that the first prompt is read by the cores that were free meanwhile.
    """

    def __init__(
        self, *computing: Threaded, fixed_threads: int = 0, others: OthersLoad | None = None
    ) -> None:
        self._computing = computing
        self.governor: Governor | None = None
        self._set = (fixed_threads, fixed_threads)
        if fixed_threads == 0:
            cores, others = UsableCores(), others or OthersLoad()
            self.governor = Governor(
                cores, others=others, ceiling=Ceiling(cores), first_others=others() or 0.0
            )

    def before_prompt(self) -> None:
        """Look at what else runs and set the threads for a prompt, or its next piece."""
        if self.governor is not None:
            self.governor.look()
            self._apply(self.governor)

    @contextmanager
    def step(self, *, plain: bool = True, num_answers: int = 1) -> Iterator[None]:
        """Time one decode step, and set the threads of the next.

        The seconds of a step of several tokens of one answer are no measure, so it is not `plain`.
        """
        if self.governor is None:
            yield
            return
        started = time.perf_counter()
        yield
        if plain:
            self.governor.step(time.perf_counter() - started, num_answers)
        else:
            self.governor.look()
        self._apply(self.governor)

    def _apply(self, governor: Governor) -> None:
        wanted = (governor.threads, governor.prefill_threads)
        if wanted != self._set:
            self._set = wanted
            for each in self._computing:
                each.set_threads(*wanted)
