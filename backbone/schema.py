"""JSON schema constraint: llguidance masks the tokens that may come next, near and far.

Schemas are compiled here and nowhere fetched: a `$ref` to another place is refused, and so is
every keyword that llguidance cannot keep. JSON is written in one layout, a space behind each comma
and colon: whitespace that a model may choose is whitespace that it may never end, and what can be
written in one way only needs no model to write it.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from backbone.errors import SchemaRefusal
from backbone.schema_trial import COMPACT, LIMITS, LOOSE, SchemaTrials

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer
    from llguidance._lib import JsonCompileOptions as Layout

    from backbone.tokenizer import Tokenizer

MAX_SCHEMA_CHARS = 200_000


class Schemas:
    """Schemas over one model's vocabulary: the constraints that are made of them."""

    def __init__(self, vocabulary: Callable[[], LLTokenizer], vocab_size: int) -> None:
        """`vocabulary` makes llguidance's own form of it: once, at the first schema."""
        self._make_vocabulary = vocabulary
        self._vocab_size = vocab_size
        self._vocabulary: LLTokenizer | None = None
        self._lock = threading.Lock()
        self._trials = SchemaTrials()

    async def tried(self, schema: dict[str, Any] | None) -> None:
        """Wait until it is known whether a schema compiles within bounds, and hold nothing else.

        Raises SchemaRefusal; constraint() says it again.
        """
        if schema is not None:
            await self._trials.begin(_as_json(schema))

    def constraint(
        self, schema: dict[str, Any], begun: str = "", ended: Callable[[], object] = lambda: False
    ) -> SchemaConstraint:
        """Return what holds an answer to a schema; `begun` is how the answer begins already.

        Raises SchemaRefusal for a schema that cannot be kept, TrialCancelled once `ended` says so.
        """
        text = _as_json(schema)
        self._trials.require_survival(text, ended)
        vocabulary = self._known_vocabulary()
        # Tokens of any cut will do: what is held is where the bytes stand in the grammar.
        tokens = vocabulary.greedy_tokenize(begun)
        for layout in (COMPACT, LOOSE):
            matcher = _compiled(text, layout, vocabulary)
            if matcher.try_consume_tokens(tokens) == len(tokens):
                return SchemaConstraint(matcher, self._vocab_size)
        raise SchemaRefusal("answer_prefix does not fit json_schema; leave one of them out")

    def _known_vocabulary(self) -> LLTokenizer:
        with self._lock:
            if self._vocabulary is None:
                self._vocabulary = self._make_vocabulary()
            return self._vocabulary


class SchemaConstraint:
    """State of one answer within its schema; see backbone.sampling.Constraint."""

    def __init__(self, matcher: LLMatcher, vocab_size: int) -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size
        self._forced: list[int] = matcher.compute_ff_tokens()

    @property
    def done(self) -> bool:
        """Whether nothing more may follow."""
        return not self._forced and self._matcher.is_stopped()

    @property
    def forced(self) -> list[int]:
        """The tokens that must come next, whatever the model would choose; often none."""
        return self._forced

    def allows(self, token: int) -> bool:
        """Return whether a token may come next: cheaper to know of one than of all."""
        return self._matcher.validate_tokens([token]) == 1

    def allowed(self) -> npt.NDArray[np.bool_]:
        """Return which tokens may come next, bool [vocab]; the end once the answer is whole.

        Raises SchemaRefusal where the schema is too complex to go on.
        """
        marks = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._require_sound()
        return np.unpackbits(marks, count=self._vocab_size, bitorder="little").view(np.bool_)

    def accept(self, token: int) -> None:
        """Move on past a token. Raises SchemaRefusal where the schema is too complex to go on."""
        self._matcher.consume_token(token)
        if self._forced:
            assert token == self._forced[0], "a forced token was not taken"
            del self._forced[0]
        if not self._forced:
            self._forced = self._matcher.compute_ff_tokens()
        self._require_sound()

    def _require_sound(self) -> None:
        if self._matcher.is_error():
            reason = _in_words(self._matcher.get_error())
            raise SchemaRefusal(f"json_schema cannot be kept any further ({reason}); {_SIMPLIFY}")


def of_tokenizer(tokenizer: Tokenizer, vocab_size: int) -> LLTokenizer:
    """Return llguidance's form of a Hugging Face tokenizer, for logits of `vocab_size` tokens."""
    from llguidance import LLTokenizer

    ends = sorted(tokenizer.eos_token_ids)
    return LLTokenizer(
        tokenizer.to_json(), n_vocab=vocab_size, eos_token=ends, slices=LLTokenizer.json_slices()
    )


def _as_json(schema: dict[str, Any]) -> str:
    try:
        text = json.dumps(schema)
    except RecursionError:
        raise _refusal("it is nested too deeply") from None
    if len(text) > MAX_SCHEMA_CHARS:
        raise SchemaRefusal(f"json_schema is longer than {MAX_SCHEMA_CHARS} characters; shorten it")
    json.loads(text, parse_int=_require_exact, object_hook=_require_kept)
    return text


def _require_kept(part: dict[str, Any]) -> dict[str, Any]:
    """Refuse what llguidance 1.9 would leave out without a word: a `not` with an `$id` in it."""
    if isinstance(part.get("not"), dict) and "$id" in part["not"]:
        raise _refusal("an $id within not")
    return part


def _require_exact(digits: str) -> None:
    # llguidance would round it, so that no answer had the number that is asked for.
    if len(digits) > 20 or not -(2**63) < int(digits) < 2**63:
        raise _refusal(f"{digits[:24]} is no integer of 64 bits")


def _compiled(text: str, layout: Layout, vocabulary: LLTokenizer) -> LLMatcher:
    from llguidance import LLMatcher, LLParserLimits

    try:
        grammar = LLMatcher.grammar_from_json_schema(text, overrides=layout)
    except ValueError as error:
        raise _refusal(str(error)) from None
    matcher = LLMatcher(vocabulary, grammar, log_level=0, limits=LLParserLimits(**LIMITS))
    if matcher.is_error():
        raise _refusal(matcher.get_error())
    return matcher


_SIMPLIFY = "simplify it"


def _refusal(reason: str) -> SchemaRefusal:
    return SchemaRefusal(f"json_schema cannot be kept ({_in_words(reason)}); {_SIMPLIFY}")


def _in_words(reason: str) -> str:
    """Return llguidance's message as one line without its own options."""
    if "coerce_one_of" in reason:
        return "the options of its oneOf do not exclude one another; write anyOf"
    lines = [line.strip() for line in reason.splitlines() if not line.startswith("<")] or [
        "unknown"
    ]
    # A pattern that cannot be read is drawn over several lines; the last one says why.
    first = lines[0] if not lines[0].endswith(":") else f"{lines[0]} {lines[-1]}"
    return first[:200]
