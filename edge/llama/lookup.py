"""Drafts of what comes next, copied from what was already said: speed without a second model.

An answer that repeats its prompt (a summary, an edit, code) is drafted by the text that followed
the newest tokens the last time they occurred. Drafts are verified, so they change the speed and
never the answer. Source: prompt lookup decoding, Saxena 2023; n-gram speculation in Transformers.
"""

from __future__ import annotations

from collections.abc import Sequence

MATCH_TOKENS = 3  # shorter matches are mostly chance
FIRST_DRAFT = 4
REST_STEPS = 4  # without drafts after a draft that was all wrong, doubled each time
LONGEST_REST = 64


class Lookup:
    """Proposes tokens; told of each verdict, it drafts longer, shorter, or rests for a while."""

    def __init__(self, prompt: Sequence[int], *, max_draft: int) -> None:
        self._max_draft = max_draft
        self._length = min(FIRST_DRAFT, max_draft)
        self._tokens: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}  # where the text after a match begins
        self._rest, self._next_rest = 0, REST_STEPS
        for token in prompt:
            self.add(token)

    def add(self, token: int) -> None:
        """Take the next token of the text."""
        # A match ends before the newest token, or the newest would find itself.
        key = tuple(self._tokens[-MATCH_TOKENS:])
        if len(key) == MATCH_TOKENS:
            self._after[key] = len(self._tokens)
        self._tokens.append(token)

    def propose(self, limit: int) -> list[int]:
        """Return at most `limit` tokens that may come next, often none."""
        if self._rest > 0:
            self._rest -= 1
            return []
        start = self._after.get(tuple(self._tokens[-MATCH_TOKENS:]))
        if start is None or limit <= 0:
            return []
        return self._tokens[start : start + min(self._length, limit)]

    def judge(self, num_proposed: int, num_accepted: int, seconds: float = 0.0) -> None:
        """Learn how a draft fared; a copy costs nothing, so the seconds do not matter here."""
        if num_proposed == 0:
            return
        if num_accepted == num_proposed:
            self._length = min(2 * self._length, self._max_draft)
            self._next_rest = REST_STEPS
        elif num_accepted > 0:
            self._length = max(1, num_accepted)
            self._next_rest = REST_STEPS
        else:
            self._length = min(FIRST_DRAFT, self._max_draft)
            self._rest, self._next_rest = self._next_rest, min(2 * self._next_rest, LONGEST_REST)
