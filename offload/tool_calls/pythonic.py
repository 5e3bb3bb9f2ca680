"""Pythonic tool calls: `[look(what="here", most=3), ...]`, as Llama 3.2 and 4 write them."""

from __future__ import annotations

import json
import re
from typing import Any

_MAX_DEPTH = 32
_NAME = re.compile(r"[\w.-]+", re.ASCII)
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?", re.ASCII)
_WORDS = {"True": True, "true": True, "False": False, "false": False, "None": None, "null": None}
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "\n": ""}


def parse_calls(text: str) -> list[tuple[str, str]] | None:
    """Return the name and the arguments, as JSON, of each call in a list; None where it is none.

    Arguments are literals with names: nothing is evaluated.
    """
    try:
        return _Reader(text).calls()
    except _NotThis:
        return None


class _NotThis(Exception):
    pass


class _Reader:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def calls(self) -> list[tuple[str, str]]:
        calls: list[tuple[str, str]] = []
        self._expect("[")
        while not self._take("]"):
            calls.append((self._match(_NAME), json.dumps(self._named(), ensure_ascii=False)))
            if not self._take(","):
                self._expect("]")
                break
        if self._next() or not calls:
            raise _NotThis
        return calls

    def _named(self) -> dict[str, Any]:
        named: dict[str, Any] = {}
        self._expect("(")
        while not self._take(")"):
            name = self._match(_NAME)
            self._expect("=")
            named[name] = self._value(0)
            if not self._take(","):
                self._expect(")")
                break
        return named

    def _value(self, depth: int) -> Any:
        if depth > _MAX_DEPTH:
            raise _NotThis
        char = self._next()
        if char in ('"', "'"):
            return self._string(char)
        if char == "[":
            return self._list(depth)
        if char == "{":
            return self._dict(depth)
        if char.isdigit() or char in "+-.":
            return self._number()
        word = self._match(_NAME)
        if word not in _WORDS:
            raise _NotThis
        return _WORDS[word]

    def _number(self) -> int | float:
        written = self._match(_NUMBER)
        if len(written) > 300:  # nobody's argument, and slow to read
            raise _NotThis
        whole = written.lstrip("+-").isdigit()
        number = int(written) if whole else float(written)
        if abs(number) == float("inf"):
            raise _NotThis
        return number

    def _list(self, depth: int) -> list[Any]:
        made: list[Any] = []
        self._expect("[")
        while not self._take("]"):
            made.append(self._value(depth + 1))
            if not self._take(","):
                self._expect("]")
                break
        return made

    def _dict(self, depth: int) -> dict[str, Any]:
        made: dict[str, Any] = {}
        self._expect("{")
        while not self._take("}"):
            quote = self._next()
            if quote not in ('"', "'"):
                raise _NotThis
            key = self._string(quote)
            self._expect(":")
            made[key] = self._value(depth + 1)
            if not self._take(","):
                self._expect("}")
                break
        return made

    def _string(self, quote: str) -> str:
        parts: list[str] = []
        self._at += 1
        while self._at < len(self._text):
            char = self._text[self._at]
            self._at += 1
            if char == quote:
                return "".join(parts)
            parts.append(self._escape() if char == "\\" else char)
        raise _NotThis

    def _escape(self) -> str:
        char = self._text[self._at : self._at + 1]
        self._at += 1
        length = {"x": 2, "u": 4, "U": 8}.get(char, 0)
        if not length:
            return _ESCAPES.get(char, char if char in "\\'\"" else f"\\{char}")
        digits = self._text[self._at : self._at + length]
        self._at += length
        try:
            return chr(int(digits, 16))
        except (ValueError, OverflowError):
            raise _NotThis from None

    def _next(self) -> str:
        """Pass over white space; return the next character, "" at the end."""
        while self._text[self._at : self._at + 1].isspace():
            self._at += 1
        return self._text[self._at : self._at + 1]

    def _take(self, char: str) -> bool:
        found = self._next() == char
        self._at += found
        return found

    def _expect(self, char: str) -> None:
        if not self._take(char):
            raise _NotThis

    def _match(self, pattern: re.Pattern[str]) -> str:
        self._next()
        found = pattern.match(self._text, self._at)
        if found is None:
            raise _NotThis
        self._at = found.end()
        return found.group()
