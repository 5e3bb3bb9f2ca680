"""Toolbox: the tools that a model may call in one answer, and which arguments fit each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import jsonschema_rs

_MAX_BACKTRACKS = 10_000


@dataclass(frozen=True, kw_only=True)
class Toolbox:
    """Toolbox: the tools of one request.

    `names` are those the model may call, `forced` says that it must call one of them, `named` that
    the client chose which. `most` is how many calls an answer may hold; None is no limit.
    `validators` know which arguments fit the tools that say it by a schema.
    """

    descriptions: tuple[dict[str, Any], ...]
    names: frozenset[str]
    forced: bool = False
    named: bool = False
    max_calls: int | None = None
    schema: dict[str, Any] | None = None
    validators: Mapping[str, jsonschema_rs.Validator] = field(default_factory=dict)

    def takes(self, name: str, arguments: Any) -> bool:
        """Whether this tool may be called, and so."""
        if name not in self.names or not isinstance(arguments, dict):
            return False
        validator = self.validators.get(name)
        return validator is None or validator.is_valid(arguments)


def validator_of(schema: dict[str, Any]) -> jsonschema_rs.Validator:
    """Return what checks a value against a schema, of the newest draft or, if it is older, 7.

    Raises ValueError with the reason where it is no schema.
    """
    try:
        return _compiled(jsonschema_rs.Draft202012Validator, schema)
    except (ValueError, RecursionError) as error:
        why = str(error).strip().split("\n", 1)[0][:200]
    try:
        return _compiled(jsonschema_rs.Draft7Validator, schema)
    except (ValueError, RecursionError):
        raise ValueError(why) from None


def _compiled(
    draft: type[jsonschema_rs.Validator], schema: dict[str, Any]
) -> jsonschema_rs.Validator:
    return draft(
        {key: value for key, value in schema.items() if key != "$schema"},
        retriever=_fetch_nothing,
        # A stranger's pattern meets a model's text here: it may not run away.
        pattern_options=jsonschema_rs.FancyRegexOptions(backtrack_limit=_MAX_BACKTRACKS),
    )


def _fetch_nothing(address: str) -> NoReturn:
    raise ValueError("schemas of other places are not fetched")
