"""Answers that fit a JSON schema: llguidance says which tokens may come next.

Schemas are compiled here and nowhere fetched: a `$ref` to another place is refused.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from backbone.errors import MissingExtra, SchemaRefusal
from backbone.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

_MAX_SCHEMA_CHARS = 200_000


class Schemas:
    """One model's vocabulary, and the constraints made of schemas over it."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, *, extra: str = "cloud") -> None:
        """`extra` is the one of nearfar that brings llguidance to whoever asks."""
        self._extra = extra
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._vocabulary: LLTokenizer | None = None

    def constraint(self, schema: dict[str, Any], begun: str = "") -> SchemaConstraint:
        """Return what holds an answer to a schema; `begun` is how the answer begins already.

        Raises SchemaRefusal for a schema that cannot be kept, and MissingExtra without llguidance.
        """
        vocabulary = self._prepared()
        from llguidance import LLMatcher

        text = json.dumps(schema)
        if len(text) > _MAX_SCHEMA_CHARS:
            raise SchemaRefusal(
                f"json_schema is longer than {_MAX_SCHEMA_CHARS} characters; shorten it"
            )
        try:
            grammar = LLMatcher.grammar_from_json_schema(text)
        except ValueError as error:
            raise _refusal(str(error)) from None
        matcher = LLMatcher(vocabulary, grammar, log_level=0)
        if matcher.is_error():
            raise _refusal(matcher.get_error())
        if begun and not matcher.consume_tokens(vocabulary.tokenize_str(begun)):
            raise SchemaRefusal("answer_prefix does not fit json_schema; leave one of them out")
        return SchemaConstraint(matcher)

    def _prepared(self) -> LLTokenizer:
        if self._vocabulary is None:
            try:
                from llguidance import LLTokenizer
            except ImportError:
                raise MissingExtra("llguidance", self._extra) from None
            ends = sorted(self._tokenizer.eos_token_ids)
            self._vocabulary = LLTokenizer(
                self._tokenizer.to_json(), n_vocab=self._vocab_size, eos_token=ends
            )
        return self._vocabulary


class SchemaConstraint:
    """Where one answer stands in its schema; see backbone.sampling.Constraint."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    @property
    def done(self) -> bool:
        """Whether nothing more may follow."""
        return self._matcher.is_stopped()

    def allowed(self) -> Tensor:
        """Return bool [vocab]: the tokens that may come next; the end token once it is whole."""
        marks = bytearray(self._matcher.compute_logit_bias())  # one byte a token, 0 if forbidden
        return torch.frombuffer(marks, dtype=torch.uint8) != 0

    def accept(self, token: int) -> None:
        """Move on past a token. Raises SchemaRefusal where the schema is too complex to go on."""
        if not self._matcher.consume_token(token):
            raise SchemaRefusal(f"json_schema cannot be kept any further; {_SIMPLIFY}")


_SIMPLIFY = "simplify it"


def _refusal(reason: str) -> SchemaRefusal:
    first = (reason.strip().splitlines() or ["unknown"])[0][:200]
    return SchemaRefusal(f"json_schema cannot be kept ({first}); {_SIMPLIFY}")
