"""Translation of the server's messages to the page: one table from English to Chinese.

Sentences are written in English where they arise. What a table cannot hold (paths, names, numbers)
stands in it as {} and is carried over; an error that is not in it keeps its own words behind a
Chinese sentence for its kind.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import msgspec

from backbone.errors import NearfarError

_BETWEEN = " · "
_TEXTS = ("why", "reason", "link", "error")


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """Translation table: Chinese by English sentence, and by the kind of an error."""

    sentences: dict[str, str]
    kinds: dict[str, str]


@functools.cache
def table() -> Table:
    """Return the table."""
    return msgspec.json.decode((Path(__file__).parent / "chinese.json").read_bytes(), type=Table)


def speaks_chinese(accept_language: str) -> bool:
    """Whether Chinese is the first of the languages that a client accepts."""
    return accept_language.strip().lower().startswith("zh")


def chinese(text: str) -> str | None:
    """Return a sentence, or several between dots, in Chinese; None where the table has it not."""
    if _BETWEEN in text:
        parts = [chinese(part) for part in text.split(_BETWEEN)]
        return None if None in parts else _BETWEEN.join(part or "" for part in parts)
    known = table().sentences
    if text in known:
        return known[text]
    for pieces, template in _carrying():
        if values := _carried(text, pieces):
            # A sentence may carry another: why a cloud could not answer.
            return template.format(*(chinese(value) or value for value in values))
    return None


@functools.cache
def _carrying() -> list[tuple[list[str], str]]:
    """Return the sentences that carry something, cut where it stands, most particular first."""
    carrying = [
        (english, translation)
        for english, translation in table().sentences.items()
        if "{}" in english
    ]
    carrying.sort(key=lambda pair: -len(pair[0]))
    return [(english.split("{}"), translation) for english, translation in carrying]


def _carried(text: str, pieces: list[str]) -> list[str]:
    """Return what stands between the pieces, each as near as it may be; none where they differ."""
    first, *between, last = pieces
    if not text.startswith(first) or not text.endswith(last):
        return []
    values, at, end = [], len(first), len(text) - len(last)
    for piece in between:
        found = text.find(piece, at + 1, end)
        if found < 0:
            return []
        values.append(text[at:found])
        at = found + len(piece)
    return [*values, text[at:end]] if at < end else []


def told_of(error: NearfarError, *, in_chinese: bool) -> str:
    """Return what a person is told of an error."""
    if not in_chinese:
        return str(error)
    kinds = table().kinds
    kind = next(each.__name__ for each in type(error).__mro__ if each.__name__ in kinds)
    return chinese(str(error)) or f"{kinds[kind]}（{error}）"  # noqa: RUF001


def spoken(document: Any, *, in_chinese: bool) -> Any:
    """Return a document for the page with its sentences in its language."""
    if not in_chinese:
        return document
    if isinstance(document, list):
        return [spoken(each, in_chinese=True) for each in document]
    if not isinstance(document, dict):
        return document
    return {name: _value(name, value) for name, value in document.items()}


def _value(name: str, value: Any) -> Any:
    if name in _TEXTS and isinstance(value, str):
        return chinese(value) or value
    if name == "remarks":
        return [chinese(each) or each for each in value]
    return spoken(value, in_chinese=True) if name in ("turns", "better", "left") else value
