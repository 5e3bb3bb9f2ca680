"""Backoff and circuit breaker: when to try again, and when to stop trying for a while."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator


class Backoff:
    """Backoff: waits in seconds that double up to a limit, each drawn from its upper half.

    Without the draw, all devices of a cloud that restarts would come back in the same moment.
    """

    def __init__(
        self,
        first_s: float = 0.05,
        most_s: float = 5.0,
        *,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._first_s, self._most_s, self._draw = first_s, most_s, draw

    def __iter__(self) -> Iterator[float]:
        wait_s = self._first_s
        while True:
            yield wait_s * (0.5 + 0.5 * self._draw())
            wait_s = min(2 * wait_s, self._most_s)


class Breaker:
    """A circuit breaker: open after failures in a row, then half-open for one probe at a time.

    Each failed probe makes the next wait longer.
    """

    def __init__(
        self,
        *,
        max_failures: int = 3,
        backoff: Backoff | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_failures = max_failures
        self._backoff = backoff or Backoff(first_s=1.0, most_s=60.0)
        self._waits = iter(self._backoff)
        self._clock = clock
        self._num_failures = 0
        self._closed_until_s = 0.0
        self._probing = False

    @property
    def is_open(self) -> bool:
        """Whether nothing should be tried now."""
        if self._num_failures < self._max_failures:
            return False
        return self._probing or self._clock() < self._closed_until_s

    @property
    def wait_s(self) -> float:
        """How long until the next attempt is allowed."""
        return max(0.0, self._closed_until_s - self._clock()) if self.is_open else 0.0

    def try_now(self) -> bool:
        """Ask leave for an attempt; in the half-open state only one gets it."""
        if self.is_open:
            return False
        self._probing = self._num_failures >= self._max_failures
        return True

    def succeeded(self) -> None:
        """The other side is well: forget its failures."""
        self._num_failures, self._probing = 0, False
        self._waits = iter(self._backoff)

    def failed(self) -> None:
        """The other side failed; after enough of it, open for a while."""
        self._num_failures += 1
        self._probing = False
        if self._num_failures >= self._max_failures:
            self._closed_until_s = self._clock() + next(self._waits)

    def given_up(self) -> None:
        """The attempt ended without telling anything, as when it was cancelled."""
        self._probing = False
