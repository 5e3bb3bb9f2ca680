"""Prompt lookup: drafts copied from earlier text, for speculative decoding without a draft model.

An answer that repeats its prompt (a summary, an edit, code) is drafted by the text that followed
the newest tokens the last time they occurred. Drafts are verified, so they change the speed and
never the answer. Source: prompt lookup decoding, Saxena 2023; n-gram speculation in Transformers.
How many tokens are copied follows from how often such copies were right, and from what a longer
step takes.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from engine.draft_gate import StepTimes

MATCH_TOKENS = 3  # shorter matches are mostly chance
LONGEST_MATCH = 32  # tokens that are compared
# Matches by their length: from so many equal tokens on, and how often the next token is expected
# to be equal too before that has been seen.
_KINDS = ((3, 0.6), (4, 0.65), (6, 0.75), (10, 0.85), (18, 0.9))
_WEIGHT = 4.0  # tokens that an expectation counts for
_MEMORY = 0.97  # weight of what was seen before, at each further token
LEAST_GAIN = 1.05  # below which a draft is not worth its uncertainty


class _Share:
    """Share of matches behind which the token came that had followed before."""

    def __init__(self, expected: float) -> None:
        self._right, self._all = _WEIGHT * expected, _WEIGHT

    def add(self, right: bool) -> None:
        self._right = _MEMORY * self._right + right
        self._all = _MEMORY * self._all + 1

    def value(self) -> float:
        return self._right / self._all


class PromptLookup:
    """Prompt lookup drafter: at each token it sees for free whether its copy was right."""

    def __init__(
        self, prompt: Sequence[int], *, max_draft: int, times: StepTimes | None = None
    ) -> None:
        self._max_draft = max_draft
        self._times = times or StepTimes()
        self._tokens: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}  # where the text after a match begins
        self._shares = [_Share(expected) for _, expected in _KINDS]
        self._at: int | None = None  # where the token that may come next stood before
        self._match = 0  # tokens before it that are equal
        for token in prompt:
            self._append(token)
        self._find()

    def add(self, token: int) -> None:
        """Take the next token of the answer."""
        if self._at is not None:
            right = self._tokens[self._at] == token
            self._share(self._match).add(right)
            self._at = self._at + 1 if right else None
            self._match = min(self._match + 1, LONGEST_MATCH)
        self._append(token)
        if self._at is None:
            self._find()

    def propose(self, limit: int) -> list[int]:
        """Return at most `limit` tokens that may come next, often none."""
        if self._at is None:
            return []
        size = self._length(min(limit, self._max_draft))
        copied = self._tokens[self._at : self._at + size]
        # A short cycle goes on in itself: what is copied may run into the copy.
        while len(copied) < size:
            copied += copied
        return copied[:size]

    def observe(self, num_proposed: int, num_accepted: int, seconds: float = 0.0) -> None:
        """Learn how a draft fared: nothing that add() would not tell."""

    def _append(self, token: int) -> None:
        # A match ends before the newest token, or the newest would find itself.
        key = tuple(self._tokens[-MATCH_TOKENS:])
        if len(key) == MATCH_TOKENS:
            self._after[key] = len(self._tokens)
        self._tokens.append(token)

    def _find(self) -> None:
        """Look for the newest tokens in the text before them."""
        tokens = self._tokens
        self._at = start = self._after.get(tuple(tokens[-MATCH_TOKENS:]))
        self._match = 0
        if start is not None:
            longest = min(LONGEST_MATCH, start)
            pairs = ((tokens[start - 1 - back], tokens[-1 - back]) for back in range(longest))
            same = itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)
            self._match = sum(1 for _ in same)

    def _share(self, match: int) -> _Share:
        kind = sum(match >= least for least, _ in _KINDS)
        return self._shares[max(kind, 1) - 1]

    def _length(self, limit: int) -> int:
        """Return how many tokens to copy: as many as give most tokens for the time; 0 for none."""
        best, best_gain = 0, LEAST_GAIN
        likely, expected = 1.0, 1.0  # that all so far are right; tokens that the step gives
        for size in range(1, limit + 1):
            likely *= self._share(self._match + size - 1).value()
            expected += likely
            gain = expected / self._times.ratio(size + 1)
            if gain > best_gain:
                best, best_gain = size, gain
        return best
