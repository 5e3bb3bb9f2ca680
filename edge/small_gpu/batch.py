"""Continuous batching: answers come and go between steps, and one that fails fails alone."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence

import torch

from backbone.errors import CheckpointError, NearfarError
from backbone.process_limits import is_out_of_memory
from edge.small_gpu.sequence import RingSequence as Answering
from edge.small_gpu.slots import RingSlots
from edge.small_gpu.step import SampledToken, StepPart
from offload.messages import FinishReason

_log = logging.getLogger("nearfar.small_gpu")

PIECE = 64  # tokens of a prompt in one step while others write
MOST_FORCED = 16  # tokens of an answer that a schema leaves no choice in, in one step
LEAST_TOKENS = 16  # of a step; where not even these fit, memory is really gone

Share = tuple[Answering, StepPart]


class Batch:
    """Batch of all answers: moves them forward a step at a time; lives in one thread."""

    def __init__(
        self,
        slots: RingSlots,
        step: Callable[[Sequence[StepPart]], list[list[SampledToken]]],
        *,
        max_num_batched_tokens: int,
        max_draft_tokens: int = 0,
    ) -> None:
        self._slots = slots
        self._step = step
        self._max_tokens = max_num_batched_tokens
        self._max_draft = max_draft_tokens
        self._waiting: deque[Answering] = deque()
        self._running: list[Answering] = []  # the oldest first

    @property
    def num_unfinished(self) -> int:
        """Return how many answers are waited for."""
        return len(self._waiting) + len(self._running)

    def add(self, sequence: Answering) -> None:
        """Let an answer take part as soon as there is a slot for it."""
        self._waiting.append(sequence)

    def step(self) -> None:
        """End what nobody waits for any more, fill free slots, and compute one step."""
        self._end_overdue()
        self._fill_slots()
        if shares := self._shares():
            self._compute(shares)

    def refuse_waiting(self, error: NearfarError) -> None:
        """Fail those who have no slot yet."""
        for sequence in list(self._waiting):
            self._fail(sequence, error)

    def abandon(self, error: NearfarError) -> None:
        """Fail everybody, for good: slots are not given back."""
        for sequence in [*self._waiting, *self._running]:
            sequence.fail(error)
        self._waiting.clear()
        self._running.clear()

    def _end_overdue(self) -> None:
        for sequence in [*self._waiting, *self._running]:
            if (reason := sequence.task.deadline.ended()) is not None:
                self._end(sequence, reason)

    def _fill_slots(self) -> None:
        while self._waiting:
            sequence, task = self._waiting[0], self._waiting[0].task
            slot = self._slots.take(task.session, task.prompt, task.owner)
            if slot is None:
                return
            self._waiting.popleft()
            self._running.append(sequence)
            sequence.enter(slot)

    def _shares(self) -> list[Share]:
        """Who writes gets a token; what is left of the step goes to prompts, the oldest first."""
        writing = [one for one in self._running if one.is_writing]
        reading = [one for one in self._running if not one.is_writing]
        # Drafts are for those who write alone: for others they would only make steps longer.
        alone = len(self._running) == 1
        shares = [self._share(one, self._limit(one, alone=alone)) for one in writing]
        written = sum(len(share[1].tokens) for share in shares if share)
        left = min(self._max_tokens - written, PIECE if writing else self._max_tokens)
        left = max(left, 1)  # however many write, a prompt gets on
        for one in reading:
            if left > 0:
                shares.append(share := self._share(one, left))
                left -= len(share[1].tokens) if share else 0
        return [share for share in shares if share is not None]

    def _limit(self, sequence: Answering, *, alone: bool) -> int:
        """Return how many tokens one that writes may have in a step."""
        return max(1 + self._max_draft * alone, min(sequence.num_forced, MOST_FORCED))

    def _share(self, sequence: Answering, limit: int) -> Share | None:
        """Return what one evaluates in this step; None where that was its end."""
        try:
            part = sequence.part(limit)
        except NearfarError as error:
            self._fail(sequence, error, spoilt=False)
            return None
        if part is None:
            self._end(sequence, "length")
            return None
        return sequence, part

    def _compute(self, shares: Sequence[Share]) -> None:
        try:
            found = self._step([part for _, part in shares])
        except Exception as error:
            self._recover(shares, error)
            return
        for (sequence, part), rows in zip(shares, found, strict=True):
            self._take(sequence, part, rows)

    def _take(self, sequence: Answering, part: StepPart, found: list[SampledToken]) -> None:
        try:
            reason = sequence.take(part, found)
        except NearfarError as error:
            self._fail(sequence, error)
            return
        if reason is not None:
            self._end(sequence, reason)

    def _recover(self, shares: Sequence[Share], error: Exception) -> None:
        """Less at once where memory ran out; else one by one, so that the guilty fail alone.

        No ring holds anything of a step that failed, so all can be computed again.
        """
        # Only the kind is logged: a message could quote what a person asked.
        _log.warning("a step of %d answers failed: %s", len(shares), type(error).__name__)
        if is_out_of_memory(error):
            self._shrink(shares)
        elif len(shares) > 1:
            for share in shares:
                self._compute([share])
        else:
            self._fail(shares[0][0], _told(error))

    def _shrink(self, shares: Sequence[Share]) -> None:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if self._max_tokens > LEAST_TOKENS:
            self._max_tokens = max(LEAST_TOKENS, self._max_tokens // 2)
            _log.warning("out of memory: at most %d tokens a step now", self._max_tokens)
        else:
            self._fail(shares[-1][0], NearfarError(NO_MEMORY))

    def _end(self, sequence: Answering, reason: FinishReason) -> None:
        sequence.end(reason)
        self._leave(sequence)

    def _fail(self, sequence: Answering, error: NearfarError, *, spoilt: bool = True) -> None:
        sequence.fail(error)
        if spoilt and sequence.has_slot:
            sequence.slot.clear()
        self._leave(sequence)

    def _leave(self, sequence: Answering) -> None:
        if sequence.has_slot:
            self._running.remove(sequence)
            self._slots.give_back(sequence.slot)
        else:
            self._waiting.remove(sequence)


FAILED = "the model could not be computed ({}); ask again, and if it stays so, fetch it again"
NO_MEMORY = (
    "the memory is full; set edge.max_model_len or edge.max_num_seqs lower, or close programs"
)


def _told(error: Exception) -> NearfarError:
    if isinstance(error, NearfarError):
        return error
    return CheckpointError(FAILED.format(type(error).__name__))
