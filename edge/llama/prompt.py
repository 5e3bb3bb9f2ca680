"""From a request to the tokens a model reads, safe from control tokens in what people write."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable

from backbone.chat_template import render
from edge.llama.binding import Model
from edge.llama.vocabulary import Vocabulary
from offload.messages import Request


class PromptWriter:
    """Renders requests with the chat template of a model and reads them into tokens."""

    def __init__(self, model: Model) -> None:
        self._vocabulary = model.vocabulary
        self.template = model.chat_template
        self._bos = self._vocabulary.text(self._vocabulary.bos)
        self._eos = self._vocabulary.text(self._vocabulary.eos)

    def tokens(self, request: Request) -> list[int]:
        """Return the prompt's tokens.

        A raw prompt is the model's own language, control tokens and all. Messages go through
        the template; without one, the last message is continued as plain text. Raises
        CheckpointError where the template cannot render the messages.
        """
        if request.prompt is not None:
            return self._join([request.prompt], first_is_template=True)
        if not self.template:
            return self._vocabulary.tokenize(request.last_text(), add_special=True)
        seal = _Seal(self._vocabulary)
        rows = [{"role": m.role, "content": seal.close(m.content)} for m in request.messages]
        text = render(self.template, rows, bos_token=self._bos, eos_token=self._eos)
        return self._join(seal.split(text), first_is_template=True)

    def _join(self, pieces: list[str], *, first_is_template: bool) -> list[int]:
        """Tokenize pieces that are in turn template text and text that only looks like it."""
        tokens: list[int] = []
        for index, piece in enumerate(pieces):
            from_template = (index % 2 == 0) == first_is_template
            # A template that writes the beginning-of-text token itself must not get a second.
            add_special = index == 0 and not (self._bos and piece.startswith(self._bos))
            tokens += self._vocabulary.tokenize(
                piece, add_special=add_special, parse_special=from_template
            )
        return tokens


class _Seal:
    """Marks control tokens in a person's text, so that they are read as the letters they are.

    Text without any is left alone, and so tokenizes exactly as the model was trained.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        # Nobody can write the marks, since nobody knows the nonce.
        self._nonce = secrets.token_hex(8)
        self._sealed: list[str] = []

    def close(self, content: str) -> str:
        """Return the text with a mark in place of each control token."""
        tokens = self._vocabulary.tokenize(content, parse_special=True)
        controls = {t for t in tokens if self._vocabulary.is_control(t)}
        names = {name for t in controls if (name := self._vocabulary.text(t)) and name in content}
        if not names:
            return content
        pattern = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
        return re.sub(pattern, self._mark(), content)

    def _mark(self) -> Callable[[re.Match[str]], str]:
        def mark(found: re.Match[str]) -> str:
            self._sealed.append(found.group())
            return f"\ufdd0{self._nonce}:{len(self._sealed) - 1}\ufdd1"

        return mark

    def split(self, text: str) -> list[str]:
        """Return template text and sealed text in turn, beginning and ending with the first."""
        parts = re.split(f"\ufdd0{self._nonce}:([0-9]+)\ufdd1", text)
        return [self._sealed[int(p)] if i % 2 else p for i, p in enumerate(parts)]
