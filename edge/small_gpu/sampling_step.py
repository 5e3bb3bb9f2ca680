"""From logits to tokens: how each answer chooses, all of a step's rows at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from backbone.sampling import Ranked, Sampler, choose, confidence, likeliest
from edge.small_gpu.block_store import to_device
from engine.lookup import PromptLookup
from offload.messages import Confidence


@dataclass(frozen=True, kw_only=True)
class LogitsRow:
    """What is wanted of one row of logits: a token of a sampler, or how likely a given one was."""

    sampler: Sampler | None = None
    given: int = 0
    num_alternatives: int = 0


@dataclass(frozen=True)
class SampledToken:
    """The token of a row, how sure the model was of it, and the likeliest ones with their nats."""

    token: int
    confidence: Confidence
    alternatives: Ranked = ()

    @property
    def is_number(self) -> bool:
        """Whether the network's arithmetic held."""
        return math.isfinite(self.confidence.entropy)


def find(logits: Tensor, rows: Sequence[LogitsRow]) -> list[SampledToken]:
    """Return what was wanted of each row of float32 logits [rows, vocab]."""
    tokens = to_device([row.given for row in rows], logits.device)
    choosing = [i for i, row in enumerate(rows) if row.sampler is not None]
    samplers = [row.sampler for row in rows if row.sampler is not None]
    if len(choosing) == len(rows):
        tokens = choose(logits, samplers)
    elif choosing:
        at = to_device(choosing, logits.device)
        tokens[at] = choose(logits[at], samplers)
    # One copy to the host for both; float32 would not hold every token id.
    sure = confidence(logits, tokens).double()
    told = torch.cat((tokens.unsqueeze(-1).double(), sure), -1).tolist()
    ranked = likeliest(logits, [row.num_alternatives for row in rows])
    return [
        SampledToken(int(token), Confidence(*values), others)
        for (token, *values), others in zip(told, ranked, strict=True)
    ]


def lookup_for(sampler: Sampler, prompt: Sequence[int], max_draft: int) -> PromptLookup | None:
    """Return what drafts an answer, where it may have drafts."""
    return PromptLookup(prompt, max_draft=max_draft) if max_draft and sampler.takes_drafts else None
