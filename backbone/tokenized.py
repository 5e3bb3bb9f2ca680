"""Tokenized: the part of an engine that encodes text and decodes tokens by a Tokenizer."""

from __future__ import annotations

from collections.abc import Sequence

from backbone.tokenizer import Tokenizer


class Tokenized:
    """The part of an engine that tells tokens (Tokenizing, offload/engine.py)."""

    tokenizer: Tokenizer

    def tokenize(self, text: str, *, add_special: bool = True) -> list[int]:
        """Return the tokens of a raw prompt; `add_special` puts first what the model wants."""
        return self.tokenizer.encode(text, add_special=add_special)

    def written(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, control tokens as they are written."""
        return self.tokenizer.written(tokens)
