"""Sampling of a step: from logits to each sequence's next token, and scores of prompt tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from backbone.sampling import choose, confidence, likeliest
from engine.torch.sequence import Sequence as Tokens
from engine.torch.step import NextToken, Scored

_ROWS_AT_ONCE = 64  # of a scored prompt: logits of thousands of rows would not fit


def choose_tokens(logits: Tensor, sequences: Sequence[Tokens]) -> list[NextToken]:
    """Return the token of each row of float32 logits [rows, vocab]."""
    chosen = choices(logits, sequences).tolist()
    ranked = likeliest(logits, [sequence.num_alternatives for sequence in sequences])
    return [NextToken.from_row(row, others) for row, others in zip(chosen, ranked, strict=True)]


def choices(logits: Tensor, sequences: Sequence[Tokens]) -> Tensor:
    """Return each row's token and its Confidence: float64 [rows, 4], on the device."""
    tokens = choose(logits, [sequence.sampler for sequence in sequences])
    # One copy to the host for both; float32 would not hold every token id.
    sure = confidence(logits, tokens).double()
    return torch.cat((tokens.unsqueeze(-1).double(), sure), -1)


def score_tokens(logits: Tensor, tokens: Tensor, num_alternatives: int) -> list[Scored]:
    """Return how likely each of `tokens` [rows] was under float32 logits [rows, vocab]."""
    of_token, entropy, _ = confidence(logits, tokens).unbind(-1)
    ranks = (logits > logits.gather(-1, tokens.unsqueeze(-1))).sum(-1)
    ranked = likeliest(logits, [num_alternatives] * len(tokens))
    rows = zip(of_token.tolist(), ranked, ranks.tolist(), entropy.tolist(), strict=True)
    return [Scored(*row) for row in rows]


def pieces(num_rows: int) -> list[slice]:
    """Return cuts of the rows of a scored prompt, small enough for their logits to be held."""
    return [
        slice(at, min(at + _ROWS_AT_ONCE, num_rows)) for at in range(0, num_rows, _ROWS_AT_ONCE)
    ]
