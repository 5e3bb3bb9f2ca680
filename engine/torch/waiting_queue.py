"""The waiting queue, fair between devices: none waits because another asks much.

A device's turn comes by the work done for it so far (virtual token counters, arXiv 2401.00588);
among its own requests by arrival, or the shortest first for as long as none has waited too long.
Batch work comes behind all that somebody reads, and has counters of its own: a *lane* is a device's
requests of one priority.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterator

from engine.torch.sequence import QueueLane, Sequence

ANSWER_WEIGHT = 2  # a token written costs more of a GPU's time than one read


class WaitingQueue:
    """Waiting queue of one scheduler; preempted sequences come before all others."""

    def __init__(self, *, short_first_s: float = 0.0) -> None:
        """`short_first_s` is how long a prompt may be overtaken by shorter ones; 0 is never."""
        self._short_first_s = short_first_s
        self._returned: deque[Sequence] = deque()
        self.num_batch = 0  # of those that wait
        self._queues: dict[QueueLane, deque[Sequence]] = {}
        self._work: Counter[QueueLane] = Counter()  # tokens done for each
        self._num_known: Counter[QueueLane] = Counter()  # sequences of each, running ones too

    def __len__(self) -> int:
        return len(self._returned) + sum(map(len, self._queues.values()))

    @property
    def num_lanes(self) -> int:
        """Lanes that are remembered: those that wait or run."""
        return len(self._work.keys() | self._num_known.keys())

    def __iter__(self) -> Iterator[Sequence]:
        yield from self._returned
        for queue in self._queues.values():
            yield from queue

    def add(self, sequence: Sequence) -> None:
        """Put a new sequence behind those of its device."""
        lane = sequence.lane
        if not self._num_known[lane]:
            # Who was away has saved up no claim, nor owes what it used when nobody else asked.
            others = [
                self._work[each]
                for each, count in self._num_known.items()
                if count and each.is_batch is lane.is_batch
            ]
            self._work[lane] = max(self._work[lane], min(others)) if others else 0
        self._num_known[lane] += 1
        self._queues.setdefault(lane, deque()).append(sequence)
        self.num_batch += lane.is_batch

    def put_first(self, sequence: Sequence) -> None:
        """Put a preempted sequence at the head."""
        self._returned.appendleft(sequence)
        self.num_batch += sequence.lane.is_batch

    def put_first_of_lane(self, sequence: Sequence) -> None:
        """Put a sequence that made way for another lane at the head of its own."""
        self._queues.setdefault(sequence.lane, deque()).appendleft(sequence)
        self.num_batch += sequence.lane.is_batch

    def newcomer(self, running: Counter[QueueLane]) -> Sequence | None:
        """Return whose turn it is among the readers' lanes that have none running, or None."""
        back = {sequence.lane for sequence in self._returned}  # whose turn comes anyway
        away = [
            queue
            for lane, queue in self._queues.items()
            if not running[lane] and lane not in back and not lane.is_batch
        ]
        return self._shortest(min(away, key=self._priority)) if away else None

    def priority(self, sequence: Sequence) -> tuple[int, int]:
        """Return the work done for a sequence's lane, and how much it asks; least is first."""
        return self._work[sequence.lane], self._num_known[sequence.lane]

    def next(self) -> Sequence | None:
        """Return whose turn it is, without taking it out; batch work comes last."""
        return self._next(is_batch=False) or self._next(is_batch=True)

    def _next(self, *, is_batch: bool) -> Sequence | None:
        for returned in self._returned:
            if returned.lane.is_batch is is_batch:
                return returned
        queues = [queue for lane, queue in self._queues.items() if lane.is_batch is is_batch]
        return self._shortest(min(queues, key=self._priority)) if queues else None

    def take(self, sequence: Sequence) -> bool:
        """Take a sequence out to run; False if it does not wait."""
        if sequence in self._returned:
            self._returned.remove(sequence)
            self.num_batch -= sequence.lane.is_batch
            return True
        queue = self._queues.get(sequence.lane)
        if queue is None or sequence not in queue:
            return False
        queue.remove(sequence)
        self.num_batch -= sequence.lane.is_batch
        if not queue:
            del self._queues[sequence.lane]
        return True

    def charge(self, sequence: Sequence, num_read: int, num_written: int) -> None:
        """Count work done for a lane."""
        self._work[sequence.lane] += num_read + ANSWER_WEIGHT * num_written

    def forget(self, sequence: Sequence) -> None:
        """Note that a sequence has ended, and forget lanes that have none left."""
        self.take(sequence)
        self._num_known[sequence.lane] -= 1
        if self._num_known[sequence.lane] == 0:
            del self._num_known[sequence.lane], self._work[sequence.lane]

    def _priority(self, queue: deque[Sequence]) -> tuple[int, int]:
        return self._work[queue[0].lane], queue[0].number

    def _shortest(self, queue: deque[Sequence]) -> Sequence:
        oldest = queue[0]
        if time.monotonic() - oldest.arrived_s >= self._short_first_s:
            return oldest
        return min(queue, key=lambda sequence: len(sequence.tokens))
