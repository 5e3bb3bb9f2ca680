"""Recent latency: the mean of how long the answers took that ended in the last seconds."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

_MOST = 10_000  # answers that are remembered


class RecentLatency:
    """Recent latency of one endpoint's answers, from being asked to their end."""

    def __init__(
        self, *, window_s: float = 30.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.clock = clock
        self._window_s = window_s
        self._ended: deque[tuple[float, float]] = deque(maxlen=_MOST)  # when, and how long it took

    def note_end(self, began_s: float) -> None:
        """Note that an answer has ended that was asked for at `began_s` by the clock."""
        now_s = self.clock()
        self._ended.append((now_s, now_s - began_s))

    def mean_s(self) -> float:
        """Return the mean in seconds, 0 where none has ended lately."""
        since_s = self.clock() - self._window_s
        while self._ended and self._ended[0][0] < since_s:
            self._ended.popleft()
        return sum(took_s for _, took_s in self._ended) / len(self._ended) if self._ended else 0.0
