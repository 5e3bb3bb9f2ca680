"""The waiting queue, fair between devices: none waits because another asks much.

A device's turn comes by the work done for it so far (virtual token counters, arXiv 2401.00588);
among its own requests by arrival, or the shortest first for as long as none has waited too long.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterator

from cloud.engine.sequence import Sequence

ANSWER_WEIGHT = 2  # a token written costs more of a GPU's time than one read


class WaitingQueue:
    """Waiting queue of one scheduler; preempted sequences come before all others."""

    def __init__(self, *, short_first_s: float = 0.0) -> None:
        """`short_first_s` is how long a prompt may be overtaken by shorter ones; 0 is never."""
        self._short_first_s = short_first_s
        self._returned: deque[Sequence] = deque()
        self._queues: dict[str, deque[Sequence]] = {}
        self._work: Counter[str] = Counter()  # tokens done for each device
        self._num_known: Counter[str] = Counter()  # sequences of each device, running ones too

    def __len__(self) -> int:
        return len(self._returned) + sum(map(len, self._queues.values()))

    @property
    def num_devices(self) -> int:
        """Devices that are remembered: those that wait or run."""
        return len(self._work.keys() | self._num_known.keys())

    def __iter__(self) -> Iterator[Sequence]:
        yield from self._returned
        for queue in self._queues.values():
            yield from queue

    def add(self, sequence: Sequence) -> None:
        """Put a new sequence behind those of its device."""
        device = sequence.device
        if not self._num_known[device]:
            # Who was away has saved up no claim, nor owes what it used when nobody else asked.
            others = [self._work[name] for name, count in self._num_known.items() if count]
            self._work[device] = max(self._work[device], min(others)) if others else 0
        self._num_known[device] += 1
        self._queues.setdefault(device, deque()).append(sequence)

    def put_first(self, sequence: Sequence) -> None:
        """Put a preempted sequence at the head."""
        self._returned.appendleft(sequence)

    def put_first_of_device(self, sequence: Sequence) -> None:
        """Put a sequence that made way for another device at the head of its own."""
        queues = self._queues
        queues.setdefault(sequence.device, deque()).appendleft(sequence)

    def newcomer(self, running: Counter[str]) -> Sequence | None:
        """Return whose turn it is among the devices that have none running, or None."""
        back = {sequence.device for sequence in self._returned}  # whose turn comes anyway
        away = [
            queue
            for device, queue in self._queues.items()
            if not running[device] and device not in back
        ]
        return self._shortest(min(away, key=self._priority)) if away else None

    def priority(self, sequence: Sequence) -> tuple[int, int]:
        """Return the work done for a sequence's device, and how much it asks; least is first."""
        return self._work[sequence.device], self._num_known[sequence.device]

    def next(self) -> Sequence | None:
        """Return whose turn it is, without taking it out."""
        if self._returned:
            return self._returned[0]
        if not self._queues:
            return None
        return self._shortest(min(self._queues.values(), key=self._priority))

    def take(self, sequence: Sequence) -> bool:
        """Take a sequence out to run; False if it does not wait."""
        if sequence in self._returned:
            self._returned.remove(sequence)
            return True
        queue = self._queues.get(sequence.device)
        if queue is None or sequence not in queue:
            return False
        queue.remove(sequence)
        if not queue:
            del self._queues[sequence.device]
        return True

    def charge(self, sequence: Sequence, num_read: int, num_written: int) -> None:
        """Count work done for a device."""
        self._work[sequence.device] += num_read + ANSWER_WEIGHT * num_written

    def forget(self, sequence: Sequence) -> None:
        """Note that a sequence has ended, and forget devices that have none left."""
        self.take(sequence)
        self._num_known[sequence.device] -= 1
        if self._num_known[sequence.device] == 0:
            del self._num_known[sequence.device], self._work[sequence.device]

    def _priority(self, queue: deque[Sequence]) -> tuple[int, int]:
        return self._work[queue[0].device], queue[0].number

    def _shortest(self, queue: deque[Sequence]) -> Sequence:
        oldest = queue[0]
        if time.monotonic() - oldest.arrived_s >= self._short_first_s:
            return oldest
        return min(queue, key=lambda sequence: len(sequence.tokens))
