"""Whether drafting pays on this machine now, by the clock and not by the share of right guesses.

A draft model costs its own steps, and a step that verifies several tokens costs more than a step
of one: by how much depends on the cores, the bits and the load. So both are timed, and what drafts
have cost so far is kept within a small share of the time that was spent writing: they may be tried
as often as that share pays for, and are free where they win.
"""

from __future__ import annotations

import logging

from engine.drafts import Drafter
from engine.step_times import Rate, StepTimes

TRIAL_STEPS = 3  # with drafts, before anything is held against them
SHARE = 0.02  # of the time spent writing that drafts may cost in all
SAVED = 32.0  # steps that drafts which won may lose again, to read a new prompt for instance
WORST = 6.0  # steps that one draft is expected to cost at most, whatever the last ones did
SLEPT = 32.0  # steps above which one was no step: the machine slept in it
REFRESH = 32  # steps with drafts, after which one without shows what that costs by now
_log = logging.getLogger("nearfar.draft")


class DraftGate:
    """Lets drafts be tried only as far as what they may lose is paid for.

    `times` are of the steps that verify; it may be shared with what decides how long drafts are.
    """

    def __init__(self, times: StepTimes | None = None) -> None:
        self.times = times or StepTimes()
        self._loss = Rate()
        self._trials = 0
        self._written_s = 0.0  # what all would have taken without drafts
        self._lost_s = 0.0
        self._since_plain = 0
        self._resting = False

    def wanted(self) -> bool:
        """Return whether to draft at this step."""
        if not self.times.known or self._since_plain >= REFRESH:
            return False
        if self._trials < TRIAL_STEPS:
            return True
        expected = min(max(0.0, self._loss.value()), WORST * self.times.plain.value())
        pays = self._lost_s + expected <= SHARE * self._written_s
        self._tell(resting=not pays)
        return pays

    def plain(self, seconds: float) -> None:
        """Take a step without a draft."""
        self.times.add(1, seconds)
        self._written_s += min(seconds, SLEPT * self.times.plain.value())
        self._since_plain = 0

    def drafted(self, seconds: float, num_tokens: int) -> None:
        """Take a step that was drafted for, drafting included, and the tokens that it gave."""
        usual = num_tokens * self.times.plain.value()
        self._trials += 1
        self._since_plain += 1
        self._written_s += usual
        # A machine that slept meanwhile is no fault of drafts.
        self._lose(min(seconds - usual, SLEPT * self.times.plain.value()))

    def wasted(self, seconds: float) -> None:
        """Take what was spent on a draft that came to nothing, or on reading for the next."""
        self._lose(seconds)

    def _lose(self, seconds: float) -> None:
        self._loss.add(seconds)
        self._lost_s = max(self._lost_s + seconds, -SAVED * self.times.plain.value())

    def _tell(self, *, resting: bool) -> None:
        if resting and not self._resting:
            _log.info("drafts take more time than they save now: they rest, and are tried again")
        self._resting = resting


class Paying:
    """A drafter whose guesses cost nothing, and are verified only where that pays."""

    def __init__(self, drafter: Drafter, worth: DraftGate) -> None:
        self._drafter = drafter
        self._worth = worth
        self._may = False  # whether this step could have taken a draft

    def add(self, token: int) -> None:
        """Take the next token of the answer."""
        self._drafter.add(token)

    def propose(self, limit: int) -> list[int]:
        """Return at most `limit` tokens that may come next, often none."""
        self._may = limit > 0
        return self._drafter.propose(limit) if self._may and self._worth.wanted() else []

    def judge(self, num_proposed: int, num_accepted: int, seconds: float) -> None:
        """Learn how the last draft fared; steps that others share are no measure."""
        if num_proposed:
            self._worth.times.add(num_proposed + 1, seconds)
            self._worth.drafted(seconds, num_accepted + 1)
        elif self._may:
            self._worth.plain(seconds)
        self._drafter.judge(num_proposed, num_accepted, seconds)
