"""BPE merges as GGUF stores them: as they are, or as the scores that SentencePiece keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from backbone.errors import CheckpointError


def merge_pairs(raw: Mapping[str, Any]) -> list[Sequence[str]]:
    """Return the merges of a parsed `tokenizer.json`, the first ones first."""
    # Older files join the two halves with a space, newer ones keep a pair.
    return [m.split(" ", 1) if isinstance(m, str) else m for m in raw["model"]["merges"]]


def merge_scores(raw: Mapping[str, Any]) -> tuple[float, ...]:
    """Return a score per token id: the earlier a token can be merged, the higher.

    Raises CheckpointError for merges that no scores can express.
    """
    vocab: dict[str, int] = raw["model"]["vocab"]
    ranks: dict[str, int] = {}
    known = set()
    for rank, (left, right) in enumerate(merge_pairs(raw)):
        ranks.setdefault(left + right, rank)
        known.add((left, right))
    _refuse_unmergeable(vocab, known, {t["content"] for t in raw.get("added_tokens", ())})
    by_id = {number: -float(ranks.get(token, 0)) for token, number in vocab.items()}
    return tuple(by_id.get(number, 0.0) for number in range(max(by_id) + 1))


def _refuse_unmergeable(
    vocab: Mapping[str, int], known: set[tuple[str, str]], added: set[str]
) -> None:
    # SentencePiece joins any two tokens whose concatenation is a token: the merges must say so.
    for token in vocab:
        if token in added or (token.startswith("<0x") and len(token) == 6):
            continue
        for cut in range(1, len(token)):
            halves = (token[:cut], token[cut:])
            if halves[0] in vocab and halves[1] in vocab and halves not in known:
                raise CheckpointError(
                    f"this tokenizer never merges {halves[0]!r} with {halves[1]!r}, which GGUF's "
                    "SentencePiece model cannot express; use a model with a byte-level tokenizer"
                )
