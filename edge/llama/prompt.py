"""Prompts: from a request to tokens, safe from control tokens in what people write."""

from __future__ import annotations

import itertools
import logging
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from backbone.chat_template import choose_template, prepare, render
from backbone.control_tokens import NO_FILL_MARKS
from backbone.errors import TemplateRefusal
from edge.llama.native_handles import Model
from edge.llama.vocabulary import LlamaVocabulary
from engine.token_healing import Healer
from engine.window import Pins
from offload.chat_turns import (
    PLAIN_TOLD,
    plain_form,
    plain_stops,
    require_known,
    require_place,
    turns,
)
from offload.errors import RequestError
from offload.messages import Request

_log = logging.getLogger("nearfar.prompt")


class PromptWriter:
    """Prompt writer: renders requests by the model's chat template and tokenizes them."""

    def __init__(self, model: Model) -> None:
        self._vocabulary = model.vocabulary
        self.healer = Healer(model.vocabulary)
        self._templates = model.chat_templates
        self.template = choose_template(self._templates, tools=False)
        if self.template:
            prepare(self.template)
        self._special_tokens = model.special_tokens
        self._bos = self._special_tokens["bos_token"]
        self._name = model.path.name
        self._told = False  # that there is no template

    def tokens(self, request: Request) -> list[int]:
        """Return the tokens of the prompt, and behind them those of the answer that has begun.

        A raw prompt is the model's own language, control tokens and all. Messages go through
        the template; without one, they are written out as plain text. Raises RequestError where
        the template refuses the messages, Unsupported where it has no place for tools, and
        CheckpointError where it is broken.
        """
        return self._prompt(request) + self.prefix(request)

    def begun(self, request: Request) -> tuple[list[int], bytes]:
        """Return the tokens to read, and the bytes that the next ones must spell (healing.py).

        Bytes are left to be spelled where the answer's beginning ends inside a token. Under a
        schema or with a judged prompt the beginning is read as it stands: there each of its
        tokens counts. Errors as tokens().
        """
        start, prefix = self._prompt(request), self.prefix(request)
        sampling = request.sampling
        as_it_stands = sampling.json_schema is not None or sampling.prompt_logprobs
        count = 0 if as_it_stands else self.healer.taken_back(prefix)
        kept = prefix[: len(prefix) - count]
        return start + kept, self._vocabulary.detokenize(prefix[len(kept) :])

    def prefix(self, request: Request) -> list[int]:
        """Return the tokens of how the answer begins already; none of them is a control token."""
        return self._vocabulary.tokenize_rest(request.answer_prefix)

    def raw(self, text: str) -> list[int]:
        """Return the tokens of a raw prompt, behind BOS."""
        return self._join([text])

    def _prompt(self, request: Request) -> list[int]:
        if request.prompt_token_ids:
            require_known(request, self._vocabulary.num_tokens)
            return list(request.prompt_token_ids)
        if request.prompt is not None:
            require_place(request, "")
            if request.suffix:
                return self._around(request.prompt, request.suffix)
            return self.raw(request.prompt)
        written = self._rendered(request)
        return self._join(written.seal.split(written.text))

    def _around(self, prefix: str, suffix: str) -> list[int]:
        """Return the tokens that ask for what stands between two texts, in the model's own marks.

        The order is prefix, suffix, middle (PSM of Bavarian et al., arXiv 2207.14255).
        """
        vocabulary = self._vocabulary
        before, behind, between = vocabulary.fill_marks
        if min(before, behind, between) < 0:
            raise RequestError(NO_FILL_MARKS)
        tokens = [*vocabulary.tokenize("", add_bos=True)]
        tokens += [before, *vocabulary.tokenize_rest(prefix)]
        return [*tokens, behind, *vocabulary.tokenize_rest(suffix), between]

    def pins(self, request: Request, tokens: Sequence[int]) -> Pins:
        """Return which of a request's tokens must never leave the window.

        Of messages: the system prompt with the tools, and the last user turn, to within a token
        where the tokenizer merges across their ends. Of a raw prompt: all.
        """
        if not request.messages:
            return Pins.whole(len(tokens))
        seal, text, given, rows = self._rendered(request)
        # Told by what was given: a template may have wanted the system prompt inside a turn.
        rules = list(itertools.takewhile(lambda row: row["role"] == "system", given))
        first_end = _ends(text, [row["content"] for row in rules])[-1]
        if request.tools and len(rules) < len(given):
            # Templates list the tools behind the system prompt, before the first turn's text.
            first_end = text.find(given[len(rules)]["content"].strip(), first_end)
        ends = _ends(text, [row["content"] for row in rows])
        last_user = max((i for i, row in enumerate(rows) if row["role"] == "user"), default=0)
        return Pins(
            num_first=self._count(seal, text[:first_end]),
            last_start=self._count(seal, text[: ends[last_user]]),
            last_end=len(tokens),
        )

    def stops(self, request: Request) -> tuple[str, ...]:
        """Return what ends an answer beside the request's own stop strings."""
        return () if self._template_of(request) else plain_stops(request)

    def _template_of(self, request: Request) -> str | None:
        return choose_template(self._templates, tools=bool(request.tools))

    def _rendered(self, request: Request) -> _Written:
        """Return the messages as one text, sealed."""
        template = self._template_of(request)
        require_place(request, template or "")
        seal = _ControlTokenSeal(self._vocabulary)
        given, tools = seal.close_all(turns(request)), seal.close_all(list(request.tools))
        if template is None:
            if plain_stops(request):
                self._tell_plain()
            return _Written(seal, plain_form(given), given, given)
        try:
            text, rows = render(
                template,
                given,
                tools=tools,
                special_tokens=self._special_tokens,
                options=seal.close_all(request.template_options or {}),
            )
        except TemplateRefusal as error:
            raise RequestError(str(error)) from None
        return _Written(seal, text, given, rows)

    def _tell_plain(self) -> None:
        if not self._told:
            self._told = True
            _log.warning(PLAIN_TOLD, self._name)

    def _count(self, seal: _ControlTokenSeal, text: str) -> int:
        return len(self._join(seal.split(text))) if text else 0

    def _join(self, pieces: list[str]) -> list[int]:
        """Tokenize pieces that are in turn template text and text that only looks like it."""
        tokens: list[int] = []
        for index, piece in enumerate(pieces):
            if index % 2 == 1:
                tokens += self._vocabulary.tokenize_rest(piece)
                continue
            # A template that writes the beginning-of-text token itself must not get a second.
            add_bos = index == 0 and not (self._bos and piece.startswith(self._bos))
            tokens += self._vocabulary.tokenize(piece, add_bos=add_bos, parse_special=True)
        return tokens


class _Written(NamedTuple):
    """Rendered conversation: its text, the turns that it was to say, and those it was made of."""

    seal: _ControlTokenSeal
    text: str
    given: list[dict[str, Any]]
    rows: list[dict[str, Any]]


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


class _ControlTokenSeal:
    """Seal of control tokens in a person's text, which are read as the letters they are.

    Text without any is left alone, and so tokenizes exactly as the model was trained.
    """

    def __init__(self, vocabulary: LlamaVocabulary) -> None:
        self._vocabulary = vocabulary
        # Nobody can write the marks, since nobody knows the nonce.
        self._nonce = secrets.token_hex(8)
        self._sealed: list[str] = []

    def close_all(self, node: Any) -> Any:
        """Return the same with each of its texts closed, however deep."""
        if isinstance(node, str):
            return self.close(node)
        if isinstance(node, Mapping):
            return {self.close(key): self.close_all(value) for key, value in node.items()}
        if isinstance(node, list | tuple):
            return [self.close_all(item) for item in node]
        return node

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
