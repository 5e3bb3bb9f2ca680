"""The likeliest tokens at one place, for readers who ask what else might have stood there."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edge.llama.vocabulary import LlamaVocabulary
from offload.messages import Alternative, PromptToken


def likeliest(
    logits: npt.NDArray[np.float32], count: int, vocabulary: LlamaVocabulary
) -> tuple[Alternative, ...]:
    """Return the `count` likeliest tokens of one row of logits, [vocabulary], the best first."""
    count = min(count, len(logits))
    best = np.argpartition(-logits, count - 1)[:count]
    best = best[np.lexsort((best, -logits[best]))]  # of equals, the lower id first
    total = _log_total(logits)
    return tuple(
        Alternative(
            token_id=int(token),
            text=token_text(int(token), vocabulary),
            logprob=float(logits[token]) - total,
        )
        for token in best
    )


def prompt_token(
    token: int,
    text: str,
    logits: npt.NDArray[np.float32] | None,
    count: int,
    vocabulary: LlamaVocabulary,
) -> PromptToken:
    """Return a token of the prompt, judged by the row of logits, [vocabulary], before it.

    The first token has nothing before it. `text` is that by which the prompt grew with it.
    """
    if logits is None:
        return PromptToken(token_id=token, text=text, logprob=None)
    return PromptToken(
        token_id=token,
        text=text,
        logprob=float(logits[token]) - _log_total(logits),
        alternatives=likeliest(logits, count, vocabulary) if count else (),
    )


def token_text(token: int, vocabulary: LlamaVocabulary) -> str:
    """Return a token as text: control tokens by name, bytes that are no character replaced."""
    piece = vocabulary.piece(token)
    return piece.decode("utf-8", "replace") if piece else vocabulary.text(token)


def _log_total(logits: npt.NDArray[np.float32]) -> float:
    peak = float(logits.max())
    return peak + float(np.log(np.exp(logits - peak).sum()))
