"""Token healing: an answer that begins in mid-token chooses that token again, longer ones included.

A text cut off after "hel" reads as tokens that the model never wrote where "hello" is one token,
and what follows suffers. So the end of the beginning is taken back as far as one longer token
could reach, and the next tokens are bound to spell it again. Source: "token healing" of
guidance-ai; here further back than one token, and never where no longer token fits.
"""

from __future__ import annotations

import bisect
import functools
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

MAX_BACK = 8  # tokens taken back at most
CANNOT_SPELL = "this model cannot write the end of answer_prefix; end it earlier"


class Pieces(Protocol):
    """Tokenizer as token healing needs it, whichever library reads it."""

    def pieces(self) -> Sequence[bytes]:
        """Return the bytes of every token; control tokens have none."""

    def detokenize(self, tokens: Sequence[int]) -> bytes:
        """Return the bytes of several tokens, one after another."""


class Spellings:
    """Vocabulary in the order of its tokens' bytes; made once, at the first healing."""

    def __init__(self, vocabulary: Pieces) -> None:
        pieces = vocabulary.pieces()
        with_bytes = (token for token, piece in enumerate(pieces) if piece)
        self._tokens = sorted(with_bytes, key=pieces.__getitem__)
        self._pieces = [pieces[token] for token in self._tokens]

    def beginning_with(self, text: bytes) -> list[int]:
        """Return the tokens whose bytes begin so."""
        return self._tokens[bisect.bisect_left(self._pieces, text) : self._end(text)]

    def is_cut(self, text: bytes) -> bool:
        """Return whether a token begins with this text and goes on."""
        first = bisect.bisect_right(self._pieces, text)
        return first < self._end(text)

    def within(self, text: bytes) -> list[int]:
        """Return the tokens that spell a beginning of the text and leave what can be spelled."""
        sizes = (size for size in range(1, len(text)) if self._can_spell(text[size:]))
        return [token for size in sizes for token in self._exactly(text[:size])]

    def _can_spell(self, text: bytes) -> bool:
        sizes = range(len(text), 0, -1)
        return not text or any(
            self._exactly(text[:size]) and self._can_spell(text[size:]) for size in sizes
        )

    def _exactly(self, text: bytes) -> list[int]:
        first = bisect.bisect_left(self._pieces, text)
        return self._tokens[first : bisect.bisect_right(self._pieces, text)]

    def _end(self, text: bytes) -> int:
        """Return the place behind all that begins with a text."""
        above = text.rstrip(b"\xff")
        if not above:
            return len(self._pieces)
        return bisect.bisect_left(self._pieces, above[:-1] + bytes([above[-1] + 1]))


class Healer:
    """Healer: takes back the end of a text where a longer token could have stood there."""

    def __init__(self, vocabulary: Pieces) -> None:
        self._vocabulary = vocabulary

    @functools.cached_property
    def spellings(self) -> Spellings:
        """Return the vocabulary in the order of its bytes; it takes a moment to make."""
        return Spellings(self._vocabulary)

    def taken_back(self, tokens: Sequence[int]) -> int:
        """Return how many tokens at the end to choose again; 0 where they stand as they are."""
        max_back = min(MAX_BACK, len(tokens))
        ends = (
            (count, self._vocabulary.detokenize(tokens[-count:]))
            for count in range(max_back, 0, -1)
        )
        return next((count for count, text in ends if text and self.spellings.is_cut(text)), 0)

    def bind(self, text: bytes) -> Binding | None:
        """Return what binds the next tokens to this text; None where there is none."""
        return Binding(self.spellings, text) if text else None


class Binding:
    """Binding to bytes that the next tokens must spell, and may go beyond."""

    def __init__(self, spellings: Spellings, text: bytes) -> None:
        self._spellings = spellings
        self._left = text

    @property
    def is_done(self) -> bool:
        """Return whether the text has been spelled."""
        return not self._left

    def allowed(self) -> npt.NDArray[np.int64]:
        """Return the tokens that may come next, in ascending order."""
        tokens = self._spellings.beginning_with(self._left) + self._spellings.within(self._left)
        assert tokens, "the tokens that were taken back spell it"
        return np.array(sorted(tokens))

    def accept(self, piece: bytes) -> None:
        """Move on past a token."""
        self._left = self._left[len(piece) :]


class KnownEnd:
    """Known end of an answer's beginning: written again, and its reader has it."""

    def __init__(self, text: bytes) -> None:
        self._left = text

    def news(self, piece: bytes) -> bytes | None:
        """Return what a token adds for the reader, None where that has all of it already."""
        known, self._left = self._left[: len(piece)], self._left[len(piece) :]
        return piece[len(known) :] if len(known) < len(piece) or not piece else None
