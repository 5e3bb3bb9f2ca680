"""Conversations like those the embedded pair learnt from, of seeds that its training never saw."""

from __future__ import annotations

from itertools import islice

from scripts.pair.bank import training_examples
from scripts.pair.vocabulary import ASSISTANT, END, USER

ANSWERS = (ASSISTANT, END)
_FIRST_SEED = 900_000  # training counts its shards from 0


def pair_text(seed: int, num_examples: int = 3000) -> str:
    """Return conversations with worked answers, control tokens spelled out, in one string."""
    examples = islice(training_examples(_FIRST_SEED + seed), num_examples)
    return "".join(f"{USER}{e.question}{ASSISTANT}{e.worked()}{END}" for e in examples)
