"""Continuous batching: requests join and leave between steps, and one that fails fails alone."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from backbone.errors import CheckpointError, NearfarError
from backbone.process_limits import is_out_of_memory
from engine.torch.request_state import RequestState
from engine.torch.runner import Step
from engine.torch.scheduler import Scheduler
from engine.torch.sequence import Sequence as Tokens
from engine.torch.step import Slice, StepResult
from engine.torch.tensor_parallel import GroupLost
from offload.messages import FinishReason

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class FailureTexts:
    """Failure texts: what is told where a request cannot be computed; `step` names the kind."""

    not_a_number: str
    step: str
    memory: str


FAR_FAILURES = FailureTexts(
    not_a_number="the model's arithmetic overflowed on this request; ask again or shorten it",
    step="the cloud could not compute this request ({}); ask again",
    memory="the cloud has no memory left for this request; ask again later",
)


class Batching:
    """Batching of all answers: moves them forward a step at a time; lives in one thread."""

    def __init__(
        self, scheduler: Scheduler, step: Step, failures: FailureTexts = FAR_FAILURES
    ) -> None:
        self.scheduler = scheduler
        self.run_step = step
        self._failures = failures
        self._answers: dict[Tokens, RequestState] = {}

    @property
    def num_unfinished(self) -> int:
        return len(self._answers)

    def add(self, answer: RequestState) -> None:
        """Queue an answer."""
        self._answers[answer.sequence] = answer
        self.scheduler.add(answer.sequence)

    def cancel(self, answer: RequestState) -> None:
        """End an answer that nobody reads any more; one that has ended is left alone."""
        if not answer.ended:
            self._end(answer.sequence, "cancelled")

    def refuse_waiting(self, error: NearfarError) -> None:
        """End the answers that have no place yet."""
        for sequence in list(self.scheduler.waiting):
            self._end(sequence, "error", error)

    def abort(self, error: NearfarError) -> None:
        """End every answer with an error, for good: what the scheduler holds is not freed."""
        for answer in self._answers.values():
            answer.end("error", error)
        self._answers.clear()

    def step(self) -> None:
        """End what is overdue, compute one step, and hand every result to its answer."""
        self._end_overdue()
        slices = self._plan()
        assert slices or not self._answers, "answers wait and none can be computed"
        self._compute(slices)

    def check_integrity(self) -> None:
        """Assert that nothing is lost: answers, sequences and blocks agree."""
        known = {*self.scheduler.running, *self.scheduler.waiting}
        assert known == set(self._answers), "answers and sequences disagree"
        self.scheduler.check_integrity()

    def _end_overdue(self) -> None:
        for answer in [each for each in self._answers.values() if each.is_gone]:
            self._end(answer.sequence, "cancelled")
        for sequence in self.scheduler.expired(time.monotonic()):
            self._end(sequence, "deadline")

    def _plan(self) -> list[Slice]:
        slices = self.scheduler.schedule()
        while self._end_refused() and not slices:
            slices = self.scheduler.schedule()
        now_s = time.monotonic()
        for slice_ in slices:
            self._answers[slice_.sequence].start(now_s)
        return slices

    def _end_refused(self) -> bool:
        """End the answers for which there is no room any more; whether there were any."""
        refused = self.scheduler.take_refused()
        for sequence, error in refused:
            is_full = sequence.num_generated > 0
            self._end(sequence, "length" if is_full else "error", None if is_full else error)
        return bool(refused)

    def _compute(self, slices: list[Slice]) -> None:
        if not slices:
            return
        began_s = time.monotonic()
        try:
            results = self.run_step(slices)
        except GroupLost:
            raise  # no step can be done again without the others
        except Exception as error:
            self._recover(slices, error)
            return
        num_tokens, step_s = sum(each.num_tokens for each in slices), time.monotonic() - began_s
        self.scheduler.token_budget.observe(num_tokens, step_s)
        if len(slices) <= self.scheduler.max_drafting:
            for slice_, result in zip(slices, results, strict=True):
                slice_.sequence.observe(len(slice_.draft), len(result.chosen) - 1, step_s)
        self._apply(slices, results)

    def _recover(self, slices: list[Slice], error: Exception) -> None:
        """Shrink the step where memory ran out; else compute singly, so that one fails alone."""
        num_tokens = sum(slice_.num_tokens for slice_ in slices)
        # Only the kind is logged: a message could quote what a person asked.
        _log.warning("a step of %d tokens failed: %s", num_tokens, type(error).__name__)
        if is_out_of_memory(error):
            if self.scheduler.shrink(num_tokens):
                _log.warning("out of memory: at most %d tokens a step", self.scheduler.budget)
                _empty_cache()
            else:
                self._end(slices[-1].sequence, "error", NearfarError(self._failures.memory))
        elif len(slices) == 1:
            told = CheckpointError(self._failures.step.format(type(error).__name__))
            self._end(slices[0].sequence, "error", told)
        else:
            for slice_ in slices:
                self._compute([slice_])

    def _apply(self, slices: Sequence[Slice], results: Sequence[StepResult]) -> None:
        for slice_, result in zip(slices, results, strict=True):
            if result.is_broken:
                # Not counted as computed: blocks with NaN in them must not be found by others.
                told = CheckpointError(self._failures.not_a_number)
                self._end(slice_.sequence, "error", told)
            else:
                self._take(slice_, result)

    def _take(self, slice_: Slice, result: StepResult) -> None:
        answer = self._answers[slice_.sequence]
        reason: FinishReason | None = None
        error: NearfarError | None = None
        answer.score(result.scored)
        num_rejected = len(slice_.draft) + 1 - len(result.chosen) if result.chosen else 0
        try:
            if result.chosen:
                reason = answer.accept(result.chosen)
        except NearfarError as refusal:
            reason, error = "error", refusal
        self.scheduler.mark_computed(slice_, num_rejected)
        answer.read()
        if reason is not None:
            self._end(slice_.sequence, reason, error)

    def _end(
        self, sequence: Tokens, reason: FinishReason, error: NearfarError | None = None
    ) -> None:
        self.scheduler.remove(sequence, spoilt=error is not None)
        self._answers.pop(sequence).end(reason, error)


def _empty_cache() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
