"""From logits to outcomes: what each sequence chooses, and what it tells of likelihoods."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from backbone.sampling import Ranked, Sampler, choose, confidence, likeliest
from cloud.engine.lookup import SequenceLookup
from cloud.engine.sequence import Sequence as Tokens
from cloud.engine.step_result import NextToken, Scored
from offload.messages import Confidence

_ROWS_AT_ONCE = 64  # of a scored prompt: logits of thousands of rows would not fit


def lookup_for(sampler: Sampler, num_speculative_tokens: int) -> SequenceLookup | None:
    """Return what drafts an answer, where it may have drafts."""
    if not num_speculative_tokens or not sampler.takes_drafts:
        return None
    return SequenceLookup(num_speculative_tokens)


def choose_tokens(logits: Tensor, sequences: Sequence[Tokens]) -> list[NextToken]:
    """Return the token of each row of float32 logits [rows, vocab]."""
    told = choices(logits, sequences).tolist()
    ranked = likeliest(logits, [sequence.num_alternatives for sequence in sequences])
    return [as_chosen(row, others) for row, others in zip(told, ranked, strict=True)]


def choices(logits: Tensor, sequences: Sequence[Tokens]) -> Tensor:
    """Return each row's token and its Confidence: float64 [rows, 4], on the device."""
    tokens = choose(logits, [sequence.sampler for sequence in sequences])
    # One copy to the host for both; float32 would not hold every token id.
    sure = confidence(logits, tokens).double()
    return torch.cat((tokens.unsqueeze(-1).double(), sure), -1)


def as_chosen(row: Sequence[float], others: Ranked = ()) -> NextToken:
    """Return one row of `choices`, on the host, as what it means."""
    token, *values = row
    return NextToken(int(token), Confidence(*values), others)


def score_tokens(logits: Tensor, tokens: Tensor, num_alternatives: int) -> list[Scored]:
    """Return how likely each of `tokens` [rows] was under float32 logits [rows, vocab]."""
    of_token = logits.gather(-1, tokens.unsqueeze(-1)) - logits.logsumexp(-1, keepdim=True)
    ranked = likeliest(logits, [num_alternatives] * len(tokens))
    return [
        Scored(logprob, others)
        for logprob, others in zip(of_token.squeeze(-1).tolist(), ranked, strict=True)
    ]


def pieces(num_rows: int) -> list[slice]:
    """Return cuts of the rows of a scored prompt, small enough for their logits to be held."""
    return [
        slice(at, min(at + _ROWS_AT_ONCE, num_rows)) for at in range(0, num_rows, _ROWS_AT_ONCE)
    ]
