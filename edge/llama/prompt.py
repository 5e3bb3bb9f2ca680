"""From a request to the tokens a model reads, safe from control tokens in what people write."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Sequence

from backbone.chat_template import render
from edge.llama.binding import Model
from edge.llama.vocabulary import Vocabulary
from edge.llama.window import Pins
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
            return self._join([request.prompt])
        if not self.template:
            return self._vocabulary.tokenize(request.last_text(), add_special=True)
        seal, rows = self._rows(request)
        return self._join(seal.split(self._render(rows)))

    def pins(self, request: Request, tokens: Sequence[int]) -> Pins:
        """Return which of a request's tokens must never leave the window.

        Of messages: the system prompt and the last user turn, to within a token where the
        tokenizer merges across their ends. Of a raw prompt: all.
        """
        if request.prompt is not None or not self.template:
            return Pins.whole(len(tokens))
        seal, rows = self._rows(request)
        text = self._render(rows)
        ends = _ends(text, [row["content"] for row in rows])
        roles = [message.role for message in request.messages]
        num_system = next((i for i, role in enumerate(roles) if role != "system"), len(roles))
        last_user = max((i for i, role in enumerate(roles) if role == "user"), default=0)
        return Pins(
            num_first=self._count(seal, text[: ends[num_system]]),
            last_start=self._count(seal, text[: ends[last_user]]),
            last_end=len(tokens),
        )

    def _rows(self, request: Request) -> tuple[_Seal, list[dict[str, str]]]:
        seal = _Seal(self._vocabulary)
        rows = [{"role": m.role, "content": seal.close(m.content)} for m in request.messages]
        return seal, rows

    def _render(self, rows: list[dict[str, str]]) -> str:
        return render(self.template, rows, bos_token=self._bos, eos_token=self._eos)

    def _count(self, seal: _Seal, text: str) -> int:
        return len(self._join(seal.split(text))) if text else 0

    def _join(self, pieces: list[str]) -> list[int]:
        """Tokenize pieces that are in turn template text and text that only looks like it."""
        tokens: list[int] = []
        for index, piece in enumerate(pieces):
            from_template = index % 2 == 0
            # A template that writes the beginning-of-text token itself must not get a second.
            add_special = index == 0 and not (self._bos and piece.startswith(self._bos))
            tokens += self._vocabulary.tokenize(
                piece, add_special=add_special, parse_special=from_template
            )
        return tokens


def _ends(text: str, contents: list[str]) -> list[int]:
    """Return where each message begins in the rendered text, and where the last one ends.

    A message begins where the content before it ends, so its header belongs to it. Templates
    may trim a content, so it is looked for without the space around it.
    """
    ends = [0]
    for content in contents:
        found = text.find(content.strip(), ends[-1])
        ends.append(ends[-1] if found < 0 else found + len(content.strip()))
    return ends


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
