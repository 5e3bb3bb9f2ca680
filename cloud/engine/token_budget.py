"""How many tokens a step may take, so that no reader waits long for the next."""

from __future__ import annotations

_FEWEST = 16  # tokens; below, a step is all overhead
_NEW_SHARE = 0.3  # of the newest measurement in the mean


class TokenBudget:
    """Learns the seconds of a token from the steps that were measured."""

    def __init__(self, target_step_s: float) -> None:
        """`target_step_s` is how long a step may take; 0 is as long as it likes."""
        self._target_s = target_step_s
        self._token_s = 0.0

    def note(self, num_tokens: int, step_s: float) -> None:
        """Learn from one step; the smallest tell nothing of a token's cost."""
        if num_tokens < _FEWEST:
            return
        token_s = step_s / num_tokens
        known = self._token_s or token_s
        self._token_s = known + _NEW_SHARE * (token_s - known)

    def budget(self, most: int) -> int:
        """Return the tokens of the next step, at most `most`."""
        if not self._target_s or not self._token_s:
            return most
        return min(most, max(_FEWEST, int(self._target_s / self._token_s)))
