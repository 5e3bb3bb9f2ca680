"""What one step says of one sequence: tokens chosen, and how likely its prompt was."""

from __future__ import annotations

import math
from dataclasses import dataclass

from backbone.sampling import Ranked
from offload.messages import Confidence


@dataclass(frozen=True)
class NextToken:
    """The next token of a sequence, how sure the model was, and what else it found likely."""

    token: int
    confidence: Confidence
    alternatives: Ranked = ()


@dataclass(frozen=True)
class Scored:
    """How likely the model found one token of a prompt, and what it found likeliest there."""

    logprob: float
    alternatives: Ranked = ()


@dataclass(frozen=True)
class StepResult:
    """Nothing while a prompt is still read in pieces; several tokens where a draft proved right."""

    chosen: tuple[NextToken, ...] = ()
    scored: tuple[Scored, ...] = ()

    @property
    def is_broken(self) -> bool:
        """Whether the arithmetic overflowed on the way."""
        numbers = [chosen.confidence.logprob for chosen in self.chosen]
        return any(map(math.isnan, [*numbers, *(scored.logprob for scored in self.scored)]))
