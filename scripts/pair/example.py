"""Example: one generated question with its exact answer, and the working that leads to it."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random


@dataclass(frozen=True, kw_only=True)
class Example:
    """A question, its answer, and optional steps; difficulty runs from 1 (easy) to 4."""

    skill: str
    difficulty: int
    question: str
    answer: str
    working: str = ""

    def direct(self) -> str:
        """Return what the edge model learns to say: the answer alone."""
        return self.answer

    def worked(self) -> str:
        """Return what the cloud model learns to say: the working first where there is any."""
        return f"{self.working}. Answer: {self.answer}" if self.working else self.answer


def phrase(random: Random, *templates: str, **slots: object) -> str:
    """Fill one of the templates, chosen at random."""
    return random.choice(templates).format(**slots)


def number(random: Random, num_digits: int) -> int:
    """Return a whole number of exactly num_digits digits (0 counts as one digit)."""
    low = 0 if num_digits == 1 else 10 ** (num_digits - 1)
    return random.randrange(low, 10**num_digits)
