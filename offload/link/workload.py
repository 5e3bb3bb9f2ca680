"""Workload of the cloud: how many answers run and wait, for limits, quotas and devices."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from statistics import median

from offload.link.message_bodies import Load
from offload.link.quota import QuotaMeter, Reservation
from offload.messages import Delta, Finish, Request

_LAST = 32  # answers whose waits are remembered


class Workload:
    """Counts of the answers that run, and how long the last ones waited."""

    def __init__(self, meter: QuotaMeter, clock: Callable[[], float] = time.monotonic) -> None:
        self.meter = meter
        self.clock = clock
        self.num_running = self.num_waiting = 0
        self.running_of: Counter[str] = Counter()
        self.queues_s: deque[float] = deque(maxlen=_LAST)
        self.first_pieces_s: deque[float] = deque(maxlen=_LAST)

    def begin(self, device_key: str, request: Request) -> AnswerMeter:
        """Count a request that was taken, and return what its answer is told to."""
        self.meter.count_request(device_key)
        self.num_running += 1
        self.num_waiting += 1
        self.running_of[device_key] += 1
        return AnswerMeter(self, device_key, self.meter.reserve(device_key, request))

    def load(self) -> Load:
        """Return the figures that the devices are told."""
        return Load(
            self.num_running,
            self.num_waiting,
            median(self.queues_s) if self.queues_s else None,
            median(self.first_pieces_s) if self.first_pieces_s else None,
        )


class AnswerMeter:
    """Tally of one answer: what it costs and how long it takes."""

    def __init__(self, workload: Workload, device_key: str, account: Reservation) -> None:
        self._workload, self._device_key = workload, device_key
        self._began_s = workload.clock()
        self._waiting = True
        self._account = account

    @property
    def num_tokens(self) -> int:
        """How many tokens the engine wrote."""
        return self._account.num_written

    def said(self, piece: Delta) -> None:
        """The engine wrote a piece."""
        if self._waiting:
            self._workload.first_pieces_s.append(self._workload.clock() - self._began_s)
            self._wait_no_more()
        self._account.see(piece)

    def finished(self, finish: Finish) -> None:
        """The engine came to its end and says what it used."""
        self._account.see(finish)
        self._workload.queues_s.append(finish.usage.queue_s)

    def failed(self) -> None:
        """The engine raised an error."""
        self._account.refused()

    def ended(self) -> None:
        """The answer runs no more, however it ended; one that was left has been read for."""
        self._account.left()
        self._wait_no_more()
        self._workload.num_running -= 1
        self._workload.running_of[self._device_key] -= 1

    def _wait_no_more(self) -> None:
        self._workload.num_waiting -= self._waiting
        self._waiting = False
