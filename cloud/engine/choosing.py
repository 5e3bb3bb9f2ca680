"""From logits to outcomes: what each sequence chooses, and what it tells of likelihoods."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from backbone.errors import SchemaRefusal
from backbone.sampling import Sampler, SamplingValues, choose, confidence, likeliest
from backbone.schema import Schemas
from cloud.engine.lookup import Lookup
from cloud.engine.outcome import Chosen, Ranked, Scored
from cloud.engine.sequence import Sequence as Tokens
from offload.errors import RequestError
from offload.messages import Confidence, Request

_ROWS_AT_ONCE = 64  # of a scored prompt: logits of thousands of rows would not fit


def sampler_for(
    request: Request, prompt: list[int], *, vocab_size: int, schemas: Schemas
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


def lookup_for(sampler: Sampler, num_speculative_tokens: int) -> Lookup | None:
    """Return what drafts an answer, where a draft can be verified: no choice by chance, and none
    that hangs on what was chosen before.
    """
    verifiable = sampler.values.temperature == 0.0 and sampler.seen is None
    if not verifiable or sampler.constraint is not None or not num_speculative_tokens:
        return None
    return Lookup(num_speculative_tokens)


def choose_tokens(logits: Tensor, sequences: Sequence[Tokens]) -> list[Chosen]:
    """Return the token of each row of float32 logits [rows, vocab]."""
    told = choices(logits, sequences).tolist()
    ranked = _ranked(logits, [sequence.num_alternatives for sequence in sequences])
    return [as_chosen(row, others) for row, others in zip(told, ranked, strict=True)]


def choices(logits: Tensor, sequences: Sequence[Tokens]) -> Tensor:
    """Return each row's token and its Confidence: float64 [rows, 4], on the device."""
    tokens = choose(logits, [sequence.sampler for sequence in sequences])
    # One copy to the host for both; float32 would not hold every token id.
    sure = confidence(logits, tokens).double()
    return torch.cat((tokens.unsqueeze(-1).double(), sure), -1)


def as_chosen(row: Sequence[float], others: Ranked = ()) -> Chosen:
    """Return one row of `choices`, on the host, as what it means."""
    token, *values = row
    return Chosen(int(token), Confidence(*values), others)


def score_tokens(logits: Tensor, tokens: Tensor, num_alternatives: int) -> list[Scored]:
    """Return how likely each of `tokens` [rows] was under float32 logits [rows, vocab]."""
    of_token = logits.gather(-1, tokens.unsqueeze(-1)) - logits.logsumexp(-1, keepdim=True)
    ranked = _ranked(logits, [num_alternatives] * len(tokens))
    return [
        Scored(logprob, others)
        for logprob, others in zip(of_token.squeeze(-1).tolist(), ranked, strict=True)
    ]


def pieces(num_rows: int) -> list[slice]:
    """Return cuts of the rows of a scored prompt, small enough for their logits to be held."""
    return [
        slice(at, min(at + _ROWS_AT_ONCE, num_rows)) for at in range(0, num_rows, _ROWS_AT_ONCE)
    ]


def _ranked(logits: Tensor, counts: Sequence[int]) -> list[Ranked]:
    longest = max(counts)
    if longest == 0:
        return [()] * len(counts)
    logprobs, tokens = likeliest(logits, longest)
    rows = zip(tokens.tolist(), logprobs.tolist(), counts, strict=True)
    return [tuple(zip(ids[:count], values[:count], strict=True)) for ids, values, count in rows]
