"""Budget controller: holds the share of requests that go far, whatever the requests are.

Online control as in adaptive conformal inference (Gibbs and Candes, arXiv 2106.00234): a level
rises by `rate` times what was spent too much and falls by what was spent too little. A request goes
far where its need ranks above the level among the last `window` needs; above a level of 1 none
goes, below 0 all do. The level therefore stays within 1 + rate, so that over any T requests in a
row, of whatever order or topic, the share differs from the budget by at most (1 + rate) / (rate T):
1.9 points over 500 at the rate of 0.12.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque

from offload.aims import Aim
from offload.errors import SettingsError
from offload.policy.serving.rule import Limit, Rule

RATE = 0.12
WINDOW = 500


class BudgetController:
    """Controller of one budget: the needs last seen, and the level that lets its share pass."""

    def __init__(self, budget: float, *, rate: float = RATE, window: int = WINDOW) -> None:
        if not 0.0 <= budget <= 1.0:
            raise SettingsError(f"a budget is {budget}; it must be a share from 0 to 1")
        self.budget, self._rate = budget, rate
        self._level = 1.0 - budget
        self._recent: deque[float] = deque(maxlen=window)
        self._ordered: list[float] = []

    def seed(self, needs: list[float]) -> None:
        """Take the needs of calibration as if they had been seen, none of them spent on."""
        for need in needs[-(self._recent.maxlen or 0) :]:
            self._remember(need)

    def max_need(self) -> float:
        """Return the need above which the next request should go far."""
        if self._level < 0.0 or self.budget == 1.0:
            return -math.inf
        if self._level >= 1.0 or self.budget == 0.0 or not self._ordered:
            return math.inf
        return self._ordered[min(len(self._ordered) - 1, int(self._level * len(self._ordered)))]

    def note(self, need: float, *, went_far: bool) -> None:
        """Take what became of one request; also of one that had to go or to stay."""
        self._level += self._rate * (float(went_far) - self.budget)
        self._level = min(1.0 + self._rate, max(-self._rate, self._level))
        self._remember(need)

    def _remember(self, need: float) -> None:
        if not math.isfinite(need):
            return
        if len(self._recent) == self._recent.maxlen:
            del self._ordered[bisect_left(self._ordered, self._recent[0])]
        self._recent.append(need)
        insort(self._ordered, need)


class AimLimits:
    """Limits of one rule by aim; every budget among the aims has a controller of its own."""

    def __init__(self, rule: Rule, min_gain: float | None = None) -> None:
        self._rule, self._min_gain = rule, min_gain
        self._controllers: dict[Aim, BudgetController] = {}

    def limit(self, aim: Aim, *, cost: float = 0.0) -> Limit:
        """Return what an aim asks now; see Rule.limit."""
        limit = self._rule.limit(aim, min_gain=self._min_gain, cost=cost)
        return Limit(max_need=self._of(aim).max_need()) if aim.kind == "budget" else limit

    def note(self, aim: Aim, need: float, *, went_far: bool) -> None:
        """Take what became of one request under a budget."""
        self._of(aim).note(need, went_far=went_far)

    def _of(self, aim: Aim) -> BudgetController:
        if aim not in self._controllers:
            self._controllers[aim] = BudgetController(aim.share)
            self._controllers[aim].seed(self._rule.seen_needs())
        return self._controllers[aim]
