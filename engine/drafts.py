"""Drafts for speculative decoding: what proposes tokens, in which order, and how many proved right.

Guesses are verified by the model itself, a few in one step: they change the speed and never the
answer. Text that repeats is copied (prompt_lookup.py); where nothing repeats, a smaller model is
asked (edge/llama/draft_model.py). Source: Leviathan et al., "Fast Inference from Transformers
via Speculative Decoding", arXiv 2211.17192; here a guess stands where it is what
would have been drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from engine.draft_gate import DraftGate


class Drafter(Protocol):
    """Drafter of one answer: proposes tokens and learns how they fared."""

    def add(self, token: int) -> None:
        """Take the next token of the answer."""

    def propose(self, limit: int) -> list[int]:
        """Return at most `limit` tokens that may come next, often none."""

    def observe(self, num_proposed: int, num_accepted: int, seconds: float) -> None:
        """Learn how the last draft fared, and how long the step took that verified it."""


class DraftStats(msgspec.Struct, kw_only=True):
    """Draft statistics of an engine since it was loaded; steps are those that verified a draft."""

    steps: int = 0
    proposed: int = 0
    accepted: int = 0

    def count(self, num_proposed: int, num_accepted: int) -> None:
        """Take one more verdict."""
        self.steps += num_proposed > 0
        self.proposed += num_proposed
        self.accepted += num_accepted


class FirstOf:
    """First of several drafters that has a guess; the cheapest comes first."""

    def __init__(self, drafters: Sequence[Drafter], draft_stats: DraftStats) -> None:
        self._drafters = drafters
        self._stats = draft_stats
        self._asked: Sequence[Drafter] = ()

    def add(self, token: int) -> None:
        """Tell all of them."""
        for drafter in self._drafters:
            drafter.add(token)

    def propose(self, limit: int) -> list[int]:
        """Return the first guess that is one."""
        for place, drafter in enumerate(self._drafters, 1):
            if draft := drafter.propose(limit):
                # Those behind were not asked: the verdict is none of theirs.
                self._asked = self._drafters[place - 1 : place]
                return draft
        self._asked = self._drafters
        return []

    def observe(self, num_proposed: int, num_accepted: int, seconds: float) -> None:
        """Tell whose guess it was; of a step without one, all that had none."""
        self._stats.count(num_proposed, num_accepted)
        for drafter in self._asked:
            drafter.observe(num_proposed, num_accepted, seconds)


class GatedDrafter:
    """Gated drafter: its guesses cost nothing and are verified as far as a gate lets them."""

    def __init__(self, drafter: Drafter, gate: DraftGate) -> None:
        self._drafter = drafter
        self._gate = gate
        gate.begin()
        self._may = False  # whether this step could have taken a draft

    def add(self, token: int) -> None:
        """Take the next token of the answer."""
        self._drafter.add(token)

    def propose(self, limit: int) -> list[int]:
        """Return at most `limit` tokens that may come next, often none."""
        self._may = limit > 0
        return self._drafter.propose(limit) if self._may and self._gate.wanted() else []

    def observe(self, num_proposed: int, num_accepted: int, seconds: float) -> None:
        """Learn how the last draft fared; steps that others share are no measure."""
        if num_proposed:
            self._gate.times.add(num_proposed + 1, seconds)
            self._gate.drafted(seconds, num_accepted + 1)
        elif self._may:
            self._gate.plain(seconds)
        self._drafter.observe(num_proposed, num_accepted, seconds)
