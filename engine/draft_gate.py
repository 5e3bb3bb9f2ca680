"""Draft gate: whether drafting pays on this machine now, from the measured time of steps.

A draft model costs its own steps, and a step that verifies several tokens costs more than a step
of one: by how much depends on the cores, the bits and the load. So both are timed, and what drafts
have cost so far is kept within a small share of the time that was spent writing: they may be tried
as often as that share pays for, and are free where they win.
"""

from __future__ import annotations

import logging

MEMORY = 0.9  # weight of what was measured before, at each new measurement
KNOWN_STEPS = 4  # measurements before a rate is trusted
OUTLIER = 8.0  # times the usual, above which a step says nothing: the machine slept in it
LASTING = 256  # steps after which a ratio that was not measured again is forgotten
TOKEN_COST = 0.35  # of a step, for each further token: a CPU's arithmetic


class Rate:
    """Rate: seconds per step, the newest measurements counting most."""

    def __init__(self) -> None:
        self._seconds = self._weight = 0.0
        self.count = 0

    def add(self, seconds: float) -> None:
        """Take one step."""
        self._seconds = MEMORY * self._seconds + seconds
        self._weight = MEMORY * self._weight + 1
        self.count += 1

    def value(self) -> float:
        """Return it; 0 before the first step."""
        return self._seconds / self._weight if self._weight else 0.0


class StepTimes:
    """Step times: of a step of one token, and the ratio of a step of several.

    Ratios are kept, since a load of others slows all steps alike. `token_cost` is the part of a
    step that each further token is taken to cost until it is measured.
    """

    def __init__(self, *, token_cost: float = TOKEN_COST) -> None:
        self.plain = Rate()
        self._token_cost = token_cost
        self._ratios: dict[int, Rate] = {}
        self._seen: dict[int, int] = {}  # the step at which each was measured last
        self._num_steps = 0

    @property
    def known(self) -> bool:
        """Return whether a step of one token has been timed often enough."""
        return self.plain.count >= KNOWN_STEPS

    def add(self, num_tokens: int, seconds: float) -> None:
        """Take a step."""
        usual = self.plain.value()
        if self.known and seconds > OUTLIER * usual * self.ratio(num_tokens):
            return
        self._num_steps += 1
        if num_tokens == 1:
            self.plain.add(seconds)
        elif self.known:
            self._ratios.setdefault(num_tokens, Rate()).add(seconds / usual)
            self._seen[num_tokens] = self._num_steps
        for size in [s for s, at in self._seen.items() if self._num_steps - at > LASTING]:
            del self._ratios[size], self._seen[size]

    def ratio(self, num_tokens: int) -> float:
        """Return how many steps of one token a step of so many takes.

        Between sizes that were timed on a line, beyond them with the slope from one token on.
        """
        if num_tokens <= 1:
            return 1.0
        low, low_ratio = 1, 1.0
        for size in sorted(self._ratios):
            ratio = max(low_ratio, self._ratios[size].value())  # more tokens never take less
            if size >= num_tokens:
                share = (num_tokens - low) / (size - low)
                return low_ratio + share * (ratio - low_ratio)
            low, low_ratio = size, ratio
        slope = (low_ratio - 1) / (low - 1) if low > 1 else self._token_cost
        return low_ratio + (num_tokens - low) * slope


TRIAL_STEPS = 3  # with drafts, before anything is held against them
SHARE = 0.02  # of the time spent writing that drafts may cost in all
SAVED = 32.0  # steps that drafts which won may lose again, to read a new prompt for instance
FIRST = 3.0  # steps of these that an answer may lose before it has paid for any itself
WORST = 6.0  # steps that one draft is expected to cost at most, whatever the last ones did
SLEPT = 32.0  # steps above which one was no step: the machine slept in it
REFRESH = 32  # steps with drafts, after which one without shows what that costs by now
_log = logging.getLogger("nearfar.draft")


class DraftGate:
    """Draft gate: drafts are tried only as far as what they may lose is paid for.

    `times` are of the steps that verify; it may be shared with what decides how long drafts are.
    """

    def __init__(self, times: StepTimes | None = None) -> None:
        self.times = times or StepTimes()
        self._loss = Rate()
        self._trials = 0
        self._written_s = 0.0  # what this answer would have taken without drafts
        self._lost_s = 0.0
        self._credit_s = 0.0  # what all answers together may lose
        self._since_plain = 0
        self._resting = False

    def begin(self) -> None:
        """Begin another answer, which may lose a share of its own time and little of others'.

        Without that little, a first draft that fails would end all drafts of a short answer.
        """
        self._written_s = self._lost_s = 0.0

    def wanted(self) -> bool:
        """Return whether to draft at this step."""
        if not self.times.known or self._since_plain >= REFRESH:
            return False
        if self._trials < TRIAL_STEPS:
            return True
        expected = min(max(0.0, self._loss.value()), WORST * self.times.plain.value())
        first = min(FIRST * self.times.plain.value(), self._credit_s)
        pays = self._lost_s + expected <= max(SHARE * self._written_s, first)
        self._tell(resting=not pays)
        return pays

    def plain(self, seconds: float) -> None:
        """Take a step without a draft."""
        self.times.add(1, seconds)
        self._write(min(seconds, SLEPT * self.times.plain.value()))
        self._since_plain = 0

    def drafted(self, seconds: float, num_tokens: int) -> None:
        """Take a step that was drafted for, drafting included, and the tokens that it gave."""
        usual = num_tokens * self.times.plain.value()
        self._trials += 1
        self._since_plain += 1
        self._write(usual)
        # A machine that slept meanwhile is no fault of drafts.
        self._lose(min(seconds - usual, SLEPT * self.times.plain.value()))

    def wasted(self, seconds: float) -> None:
        """Take what was spent on a draft that came to nothing, or on reading for the next."""
        self._lose(seconds)

    def _write(self, seconds: float) -> None:
        self._written_s += seconds
        self._earn(SHARE * seconds)

    def _lose(self, seconds: float) -> None:
        self._loss.add(seconds)
        self._lost_s = max(self._lost_s + seconds, -SAVED * self.times.plain.value())
        self._earn(-seconds)

    def _earn(self, seconds: float) -> None:
        self._credit_s = min(self._credit_s + seconds, SAVED * self.times.plain.value())

    def _tell(self, *, resting: bool) -> None:
        if resting and not self._resting:
            _log.info("drafts take more time than they save now: they rest, and are tried again")
        self._resting = resting
