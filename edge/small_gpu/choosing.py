"""From logits to tokens: how each answer chooses, all of a step's rows at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from backbone.errors import SchemaRefusal
from backbone.sampling import Sampler, SamplingValues, choose, confidence, likeliest
from backbone.schema import Schemas
from edge.llama.lookup import Lookup
from edge.small_gpu.store import to_device
from offload.errors import RequestError
from offload.messages import Confidence, Request


@dataclass(frozen=True, kw_only=True)
class Row:
    """What is wanted of one row of logits: a token of a sampler, or how likely a given one was."""

    sampler: Sampler | None = None
    given: int = 0
    num_alternatives: int = 0


@dataclass(frozen=True)
class Found:
    """The token of a row, how sure the model was of it, and the likeliest ones with their nats."""

    token: int
    confidence: Confidence
    likeliest: tuple[tuple[int, float], ...] = ()

    @property
    def is_number(self) -> bool:
        """Whether the network's arithmetic held."""
        return math.isfinite(self.confidence.entropy)


def find(logits: Tensor, rows: Sequence[Row]) -> list[Found]:
    """Return what was wanted of each row of float32 logits [rows, vocab]."""
    tokens = to_device([row.given for row in rows], logits.device)
    choosing = [i for i, row in enumerate(rows) if row.sampler is not None]
    samplers = [row.sampler for row in rows if row.sampler is not None]
    if len(choosing) == len(rows):
        tokens = choose(logits, samplers)
    elif choosing:
        tokens[choosing] = choose(logits[choosing], samplers)
    # One copy to the host for both; float32 would not hold every token id.
    sure = confidence(logits, tokens).double()
    told = torch.cat((tokens.unsqueeze(-1).double(), sure), -1).tolist()
    ranked = _ranked(logits, [row.num_alternatives for row in rows])
    return [
        Found(int(token), Confidence(*values), others)
        for (token, *values), others in zip(told, ranked, strict=True)
    ]


def _ranked(logits: Tensor, counts: Sequence[int]) -> list[tuple[tuple[int, float], ...]]:
    if not any(counts):
        return [()] * len(counts)
    values, tokens = likeliest(logits, max(counts))
    rows = zip(tokens.tolist(), values.tolist(), counts, strict=True)
    return [tuple(zip(ids[:count], nats[:count], strict=True)) for ids, nats, count in rows]


def sampler_for(
    request: Request, prompt: Sequence[int], *, vocab_size: int, schemas: Schemas
) -> Sampler:
    """Return how the answer to a request is chosen. Raises RequestError."""
    asked = request.sampling
    unknown = [token for token in asked.logit_bias or () if token >= vocab_size]
    if unknown:
        raise RequestError(
            f"logit_bias names the token {unknown[0]}; this model's are 0 to {vocab_size - 1}"
        )
    constraint = None
    if asked.json_schema is not None:
        try:
            constraint = schemas.constraint(asked.json_schema, request.answer_prefix)
        except SchemaRefusal as refusal:
            raise RequestError(str(refusal)) from None
    values = SamplingValues(
        temperature=asked.temperature,
        top_k=asked.top_k,
        top_p=asked.top_p,
        min_p=asked.min_p,
        repetition_penalty=asked.repetition_penalty,
    )
    sampler = Sampler(
        values,
        seed=asked.seed,
        vocab_size=vocab_size,
        logit_bias=asked.logit_bias,
        constraint=constraint,
    )
    sampler.note(prompt)
    return sampler


def lookup_for(sampler: Sampler, prompt: Sequence[int], max_draft: int) -> Lookup | None:
    """Return what drafts an answer, where a draft can be verified: no choice by chance, and none
    that hangs on what was chosen before.
    """
    verifiable = sampler.values.temperature == 0.0 and sampler.seen is None
    if not max_draft or not verifiable or sampler.constraint is not None:
        return None
    return Lookup(prompt, max_draft=max_draft)
