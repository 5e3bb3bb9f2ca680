"""Answers that fit a JSON schema: a grammar that forbids every token that would break it."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import numpy as np
import numpy.typing as npt

from edge.llama.binding import Owned
from edge.llama.candidates import Candidates
from edge.llama.library import llama, log
from edge.llama.vocabulary import Vocabulary
from offload.errors import RequestError


class Grammar(Owned):
    """llama.cpp's grammar sampler for one answer.

    Raises RequestError for a schema that cannot be turned into a grammar.
    """

    def __init__(self, schema: dict[str, Any], vocabulary: Vocabulary) -> None:
        super().__init__()
        rules = schema_rules(schema)
        log.clear()
        self._handle = self._lib.llama_sampler_init_grammar(
            vocabulary.handle, rules.encode(), b"root"
        )
        if not self._handle:
            self._handle = None
            raise RequestError(f"json_schema makes no grammar ({log.reason()}); simplify it")
        self._one = Candidates(1)
        self._all = Candidates(vocabulary.num_tokens)

    def allows(self, token: int) -> bool:
        """Return whether a token may come next."""
        self._one.fill_one(token)
        self._one.apply(self.handle)
        return self._one.first_is_allowed()

    def allowed(self) -> npt.NDArray[np.int64]:
        """Return all tokens that may come next, in ascending order."""
        self._all.fill_all()
        self._all.apply(self.handle)
        return self._all.allowed()

    def accept(self, token: int) -> None:
        """Move on past a token that allows() said may come."""
        self._lib.llama_sampler_accept(self.handle, token)

    def _free(self, handle: Any) -> None:
        self._lib.llama_sampler_free(handle)


def schema_rules(schema: dict[str, Any]) -> str:
    """Return llama.cpp's grammar (GBNF) of a JSON schema; no schema is fetched from elsewhere."""
    llama()  # sets the log before the package is imported further
    from llama_cpp.llama_grammar import json_schema_to_gbnf

    try:
        _require_known(schema)
        return str(json_schema_to_gbnf(json.dumps(schema)))
    except RequestError:
        raise
    except RecursionError:
        raise RequestError("json_schema is nested too deeply; simplify it") from None
    except Exception as error:  # the converter raises whatever it stumbles over
        detail = str(error) or type(error).__name__
        raise RequestError(f"json_schema cannot be followed ({detail}); simplify it") from None


_FOLLOWED = {
    *("$ref", "$defs", "definitions", "type", "const", "enum", "oneOf", "anyOf", "allOf"),
    *("properties", "required", "additionalProperties"),
    *("items", "prefixItems", "minItems", "maxItems"),
    *("pattern", "format", "minLength", "maxLength"),
}
_REMARKS = {"$schema", "$id", "$comment", "title", "description", "default", "examples"}
_NAMED = ("$defs", "definitions", "properties")  # their keys are names, not keywords


MAX_REPEATS = 1024  # of items or characters; the grammar grows with each
_REPEATS = ("minItems", "maxItems", "minLength", "maxLength")


def _require_small(schema: dict[str, Any]) -> None:
    """Raise RequestError for a schema whose grammar would be too large to build."""
    for keyword in _REPEATS:
        count = schema.get(keyword, 0)
        if isinstance(count, (int, float)) and count > MAX_REPEATS:
            raise RequestError(f"json_schema's {keyword} is above {MAX_REPEATS}; make it smaller")
    pattern = schema.get("pattern", "")
    if isinstance(pattern, str):
        bounds = [int(number) for number in re.findall(r"[{,]\s*(\d{1,9})", pattern)]
        if math.prod(max(bound, 1) for bound in bounds) > MAX_REPEATS or len(pattern) > MAX_REPEATS:
            raise RequestError("json_schema's pattern repeats too much; make it smaller")


def _require_known(schema: object) -> None:
    """Raise RequestError for a keyword that the grammar would leave out without a word."""
    if isinstance(schema, list):
        for part in schema:
            _require_known(part)
    if not isinstance(schema, dict):
        return
    _require_small(schema)
    unknown = sorted(schema.keys() - _FOLLOWED - _REMARKS)
    if unknown:
        raise RequestError(f"json_schema's {unknown[0]!r} cannot be enforced; leave it out")
    for keyword, value in schema.items():
        if keyword in _NAMED and isinstance(value, dict):
            _require_known(list(value.values()))
        elif keyword in _FOLLOWED - {"const", "enum", "type", "required"}:
            _require_known(value)
