"""Prompt lookup: speculative decoding without a draft model, its drafts copied from the sequence.

Prompt lookup (Saxena, github.com/apoorvumang/prompt-lookup-decoding): where the last tokens have
stood before, what followed them then is guessed to follow again. A step computes the guesses
beside the last token, and only those are kept that the network would have chosen itself.
"""

from __future__ import annotations

from collections.abc import Sequence

from backbone.sampling import Sampler

MIN_MATCH = 3  # tokens; shorter runs repeat by chance
_LONGEST_PAUSE = 16  # steps without a draft, after several that were wrong


class SequenceLookup:
    """One sequence's drafts; they grow while they prove right, and pause when they do not."""

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._length = longest
        self._pause = 0  # steps still to be left out
        self._next_pause = 1
        self._ends: dict[tuple[int, ...], int] = {}  # where a run of MIN_MATCH tokens last ended
        self._num_seen = MIN_MATCH

    def draft(self, tokens: Sequence[int], limit: int) -> tuple[int, ...]:
        """Return at most `limit` tokens that followed when the last ones stood there before."""
        # The run that ends the sequence is left out: it would only find itself.
        for end in range(self._num_seen, len(tokens)):
            self._ends[tuple(tokens[end - MIN_MATCH : end])] = end
        self._num_seen = max(self._num_seen, len(tokens))
        if self._pause:
            self._pause -= 1
            return ()
        found = self._ends.get(tuple(tokens[-MIN_MATCH:]))
        wanted = min(limit, self._length)
        if found is None or wanted < 1:
            return ()
        # A short cycle goes on in itself: what is copied may run into the copy.
        following = list(tokens[found:])
        while len(following) < wanted:
            following += following
        return tuple(following[:wanted])

    def judge(self, num_drafted: int, num_right: int) -> None:
        """Learn how much of the last draft proved right."""
        if num_right == num_drafted:
            self._length = min(self._longest, 2 * num_drafted)
        else:
            self._length = max(1, num_right)
        if num_right:
            self._next_pause = 1
        else:
            self._pause = self._next_pause
            self._next_pause = min(_LONGEST_PAUSE, 2 * self._next_pause)


def lookup_for(sampler: Sampler, num_speculative_tokens: int) -> SequenceLookup | None:
    """Return what drafts an answer, where it may have drafts."""
    if not num_speculative_tokens or not sampler.takes_drafts:
        return None
    return SequenceLookup(num_speculative_tokens)
