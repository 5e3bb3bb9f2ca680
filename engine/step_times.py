"""What a step of several tokens costs beside a step of one, measured as answers are written."""

from __future__ import annotations

MEMORY = 0.9  # weight of what was measured before, at each new measurement
KNOWN_STEPS = 4  # measurements before a rate is trusted
OUTLIER = 8.0  # times the usual, above which a step says nothing: the machine slept in it
LASTING = 256  # steps after which a ratio that was not measured again is forgotten
GUESS = 0.35  # of a step that each further token costs, until it is measured: a CPU's arithmetic


class Rate:
    """Seconds per step, the newest measurements counting most."""

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
    """Seconds of a step of one token, and how many of those a step of several takes.

    Ratios are kept, since a load of others slows all steps alike.
    """

    def __init__(self) -> None:
        self.plain = Rate()
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
        slope = (low_ratio - 1) / (low - 1) if low > 1 else GUESS
        return low_ratio + (num_tokens - low) * slope
