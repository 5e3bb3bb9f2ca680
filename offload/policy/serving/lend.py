"""Lend rule: at which places of a near answer a far model writes the next words, and how many.

A place counts where the near model's alternatives differ in meaning: where an answer or a line
begins, and where a number is about to be written. Source of the idea: token routing, arXiv
2505.21600 and 2504.07878; benchmarks/together_lend.py has what these bounds give.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

_log = logging.getLogger("nearfar.policy")

SENTENCE, FEWEST = 16, 4  # tokens of a visit: of a sentence, and of a number
_TOKEN_S = 0.02  # of a far model that has not answered yet
_USELESS = 5  # visits in a row that bring nothing


@dataclass(frozen=True, kw_only=True)
class LendRule:
    """Rule of lending: below which probability of its token the near model is helped, by place.

    `share`: of the near model's tokens so far, so many may have been lent before the next visit.
    """

    number: float = 0.6
    begin: float = 0.0  # of an answer or of a line: not measured yet
    share: float = 0.15

    def doubts(self, before: str, piece: str, logprob: float) -> bool:
        """Whether the near model is to be helped to the token `piece` that it wrote there."""
        if _is_digit(piece.lstrip()[:1]):
            bound = self.number
        else:
            bound = self.begin if not before.strip() or before.endswith("\n") else 0.0
        return math.exp(min(0.0, logprob)) < bound

    def affords(self, num_lent: int, num_near: int) -> bool:
        """Whether the tokens lent so far have been paid for by the near model's own."""
        return num_lent <= self.share * num_near


def _is_digit(character: str) -> bool:
    return character.isdigit()


def visit_len(round_trip_s: float | None, token_s: float | None) -> int:
    """Return how many tokens a visit lends, so that the way there and back is half of its time.

    A quick link lends a number, a slow one a sentence, as does one that was not measured.
    """
    if round_trip_s is None:
        return SENTENCE
    return min(SENTENCE, max(FEWEST, math.ceil(round_trip_s / (token_s or _TOKEN_S))))


class LendWatch:
    """Watch over visits: a far side that cannot go on with an answer is no longer asked to."""

    def __init__(self) -> None:
        self._num_useless = 0
        self.is_useful = True

    def note(self, *, useful: bool) -> None:
        """Take the outcome of a visit."""
        self._num_useless = 0 if useful else self._num_useless + 1
        if self.is_useful and self._num_useless == _USELESS:
            self.is_useful = False
            _log.warning(
                "nearfar: the far model went on with none of the last %d near answers, so it is no "
                "longer asked to until nearfar is started again",
                _USELESS,
            )

    def is_unsupported(self) -> None:
        """Take note that the far side cannot go on with another's answer."""
        self.is_useful = False
