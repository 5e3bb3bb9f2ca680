"""Log-probabilities of tokens and of their alternatives, in OpenAI's two forms."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import Struct

from offload.messages import Alternative, Confidence, Delta, PromptToken

UNLIKELY = -9999.0  # OpenAI's stand-in for a log-probability that JSON cannot hold


class TopLogprob(Struct, frozen=True):
    """Top log-probability: a token that might have stood at this place."""

    token: str
    logprob: float
    bytes: list[int]
    token_id: int


class TokenLogprob(Struct, frozen=True):
    """Token log-probability, and those of its alternatives.

    `token` is the text by which the answer grew with this token: empty where a character or a
    possible stop string was still incomplete, and longer where it then was let go.
    """

    token: str
    logprob: float
    bytes: list[int]
    token_id: int
    top_logprobs: list[TopLogprob]


class ChatLogprobs(Struct, frozen=True):
    """The log-probabilities of a piece of a chat's answer."""

    content: list[TokenLogprob]
    refusal: None = None


class CompletionLogprobs(Struct, frozen=True):
    """The log-probabilities of a piece of a raw completion; offsets count characters.

    The first token of an echoed prompt has nothing before it, so its entries are null.
    """

    tokens: list[str]
    token_logprobs: list[float | None]
    text_offset: list[int]
    top_logprobs: list[dict[str, float] | None] | None = None


def logprobs_of(delta: Delta) -> list[TokenLogprob]:
    """Return an entry for each token whose confidence is known; its last has the delta's text."""
    known = list(zip(delta.token_ids, delta.confidence, strict=False))
    texts = [""] * max(0, len(known) - 1) + [delta.text]
    others = delta.alternatives or ((),) * len(known)
    return [
        _entry(text, token, sure, alternatives)
        for text, (token, sure), alternatives in zip(texts, known, others, strict=False)
    ]


def grown(token: TokenLogprob, text: str) -> TokenLogprob:
    """Return an entry with more text: what was held back when its token came, and no other has."""
    whole = token.token + text
    return msgspec.structs.replace(token, token=whole, bytes=list(whole.encode()))


def completion_logprobs(
    read: Sequence[PromptToken], written: Sequence[TokenLogprob], *, at: int, top: int
) -> CompletionLogprobs:
    """Return the entries of an echoed prompt's tokens and of an answer's.

    `at` is the number of characters before the first of them, `top` how many alternatives were
    asked for. The texts of `read` are those that join to the echo (serve/prompts.py).
    """
    rows = [_read_row(token) for token in read] + [_written_row(token) for token in written]
    offsets = []
    for text, _, _ in rows:
        offsets.append(at)
        at += len(text)
    return CompletionLogprobs(
        [text for text, _, _ in rows],
        [logprob for _, logprob, _ in rows],
        offsets,
        [others for _, _, others in rows] if top else None,
    )


_Row = tuple[str, float | None, dict[str, float] | None]


def _read_row(token: PromptToken) -> _Row:
    if token.logprob is None:
        return token.text, None, None
    logprob = _told(token.logprob)
    others = [(each.token_id, each.text, each.logprob) for each in token.alternatives]
    return token.text, logprob, _by_text(token.token_id, token.text, logprob, others)


def _written_row(token: TokenLogprob) -> _Row:
    others = [(each.token_id, each.token, each.logprob) for each in token.top_logprobs]
    return (
        token.token,
        token.logprob,
        _by_text(token.token_id, token.token, token.logprob, others),
    )


def _by_text(
    token: int, text: str, logprob: float, others: Sequence[tuple[int, str, float]]
) -> dict[str, float]:
    """Return the likeliest of each text, the token's own under the text that is told of it.

    Halves of characters may look the same; the token's own is what readers look for.
    """
    found: dict[str, float] = {}
    for other, shown, value in others:
        if other != token:
            found[shown] = max(_told(value), found.get(shown, UNLIKELY))
    return dict(sorted({**found, text: logprob}.items(), key=lambda pair: -pair[1]))


def _entry(
    text: str, token: int, sure: Confidence, alternatives: Sequence[Alternative]
) -> TokenLogprob:
    top = [
        TopLogprob(each.text, _told(each.logprob), list(each.text.encode()), each.token_id)
        for each in alternatives
    ]
    return TokenLogprob(text, _told(sure.logprob), list(text.encode()), token, top)


def _told(logprob: float) -> float:
    # NaN fails the comparison too, and JSON has no word for either.
    return logprob if logprob > UNLIKELY else UNLIKELY
