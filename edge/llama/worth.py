"""Whether drafting pays on this machine now, by the clock and not by the share of right guesses.

A draft model costs its own steps, and a step that verifies several tokens costs more than a step
of one: by how much depends on the cores, the bits and the load. So both are timed.
"""

from __future__ import annotations

MEMORY = 0.9  # weight of what was measured before, at each new measurement
TRIAL_STEPS = 6  # with drafts, before they are judged
# Steps without drafts after a judgement against them, doubled each time. Rests are long, since
# what is said meanwhile must all be read when drafts are tried again.
REST_STEPS = 64
LONGEST_REST = 4096


class Rate:
    """Seconds per token, the newest measurements counting most."""

    def __init__(self) -> None:
        self._seconds = self._tokens = 0.0
        self.count = 0

    def add(self, seconds: float, num_tokens: int) -> None:
        """Take one step."""
        self._seconds = MEMORY * self._seconds + seconds
        self._tokens = MEMORY * self._tokens + num_tokens
        self.count += 1

    def seconds_per_token(self) -> float:
        """Return it; 0 before the first step."""
        return self._seconds / self._tokens if self._tokens else 0.0


class Worth:
    """Rests where steps with drafts give fewer tokens a second than steps without."""

    def __init__(self) -> None:
        self._plain, self._drafted = Rate(), Rate()
        self._rest, self._next_rest = 0, REST_STEPS

    def wanted(self) -> bool:
        """Return whether to draft at this step; asked once a step."""
        if self._rest == 0:
            return True
        self._rest -= 1
        return False

    def plain(self, seconds: float) -> None:
        """Take a step without a draft."""
        self._plain.add(seconds, 1)

    def drafted(self, seconds: float, num_tokens: int) -> None:
        """Take a step that was drafted for, and the tokens that it gave."""
        self._drafted.add(seconds, num_tokens)
        if self._drafted.count < TRIAL_STEPS or self._plain.count == 0:
            return
        if self._drafted.seconds_per_token() <= self._plain.seconds_per_token():
            self._next_rest = REST_STEPS
            return
        self._rest, self._next_rest = self._next_rest, min(2 * self._next_rest, LONGEST_REST)
        self._drafted = Rate()  # the next trial is judged by itself
