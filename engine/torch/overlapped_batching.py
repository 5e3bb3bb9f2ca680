"""Overlapped batching: plans a step while the device still computes the one before it.

The tokens of the step under way are not known yet: each keeps its place in its sequence, and goes
from device to device into the next step. Where that step would hang on them (a draft, a schema, a
penalty, likelihoods that are asked for, room to be made) the one under way is waited for first.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence

from engine.torch.continuous_batching import FAR_FAILURES, Batching, FailureTexts
from engine.torch.request_state import RequestState
from engine.torch.runner import Step
from engine.torch.scheduler import Scheduler
from engine.torch.step import Slice, StepInFlight
from engine.torch.tensor_parallel import GroupLost

_log = logging.getLogger(__name__)

Launch = Callable[[Sequence[Slice], "StepInFlight | None"], StepInFlight]


class OverlappedBatching(Batching):
    """Overlapped batching: one step at most is under way; its results are applied a turn later."""

    def __init__(
        self,
        scheduler: Scheduler,
        step: Step,
        launch: Launch,
        failures: FailureTexts = FAR_FAILURES,
    ) -> None:
        super().__init__(scheduler, step, failures)
        self.launch = launch
        self._in_flight: StepInFlight | None = None
        self._finished_s = 0.0
        self.num_overlapped = 0  # steps that were launched before the one before them was applied

    def step(self) -> None:
        """Launch the next step, then hand out what the one before it did."""
        self._end_overdue()
        if self._in_flight is not None and not self.scheduler.has_room():
            self._finish_step()
        slices, before = self._plan(), self._in_flight
        assert slices or before or not self._answers, "answers wait and none can be computed"
        behind = self._launch_step(slices, before)
        # Where it failed, what was planned behind it is void.
        if self._finish_step(behind) and behind is None:
            self._compute(self._still_running(slices))

    def cancel(self, answer: RequestState) -> None:
        """See Batching."""
        super().cancel(answer)
        if not self._answers:
            self._in_flight = None  # nobody waits for it

    def _launch_step(self, slices: list[Slice], before: StepInFlight | None) -> StepInFlight | None:
        """Start a step; None where its like must wait for the one before, or cannot be started."""
        if not slices or not all(_can_overlap(slice_) for slice_ in slices):
            return None
        try:
            flight = self.launch(slices, before)
        except GroupLost:
            raise  # no step can be done again without the others
        except Exception as error:
            # Done again behind the one under way, where the failing request can be found.
            _log.debug("a step could not be launched: %s", type(error).__name__)
            return None
        for slice_ in slices:
            self.scheduler.mark_launched(slice_)
        self.num_overlapped += before is not None
        return flight

    def _finish_step(self, behind: StepInFlight | None = None) -> bool:
        """Wait for the step under way and hand out its results; False where it failed."""
        flight, self._in_flight = self._in_flight, behind
        if flight is None:
            return True
        try:
            results = flight.results()
        except Exception as error:
            self._roll_back(flight, error)
            return False
        now_s = time.monotonic()
        num_tokens = sum(slice_.num_tokens for slice_ in flight.slices)
        self.scheduler.token_budget.observe(
            num_tokens, now_s - max(flight.began_s, self._finished_s)
        )
        self._finished_s = now_s
        both = zip(flight.slices, results, strict=True)
        # Requests that have ended meanwhile get no result.
        kept = [one for one in both if one[0].sequence in self._answers]
        self._apply([slice_ for slice_, _ in kept], [result for _, result in kept])
        return True

    def _roll_back(self, flight: StepInFlight, error: Exception) -> None:
        """Undo a failed step and the one behind it, and do it again the plain way."""
        behind, self._in_flight = self._in_flight, None
        for undone in (behind, flight):
            for slice_ in self._still_running(undone.slices if undone else ()):
                slice_.sequence.roll_back(slice_.start)
        if slices := self._still_running(flight.slices):
            self._recover(slices, error)

    def _still_running(self, slices: Iterable[Slice]) -> list[Slice]:
        return [slice_ for slice_ in slices if slice_.sequence in self._answers]


def _can_overlap(slice_: Slice) -> bool:
    return not slice_.draft and slice_.sequence.can_overlap
