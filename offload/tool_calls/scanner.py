"""Incremental scanner: reads a text while it is written, and finds where a bracketed value ends."""

from __future__ import annotations

import re
from collections.abc import Generator
from typing import TypeAlias, TypeVar

_CLOSERS = {"{": "}", "[": "]", "(": ")"}


class JsonEnd:
    """Bracket matcher outside of strings, piece by piece; `opened` are closers awaited already.

    JSON has strings in double quotes; a call in the form of Python's has either kind.
    """

    def __init__(self, opened: str = "", *, quotes: str = '"') -> None:
        self._awaited = list(opened)
        self._quotes = quotes
        self._quote = ""
        self._escaped = False

    @property
    def missing(self) -> str:
        """Return the closing brackets that have not come."""
        return "".join(reversed(self._awaited))

    def find(self, text: str, start: int = 0) -> int | None:
        """Return where in the next piece, text[start:], the value has ended, or None.

        That is behind its last bracket, or before what no value goes on with: a `<` outside of
        strings (a model that forgot a bracket writes its closing tag), a line's end within one.
        """
        for at in range(start, len(text)):
            char = text[at]
            if self._quote:
                if char == "\n":
                    return at
                self._read_in_string(char)
            elif char == "<":
                return at
            elif char in self._quotes:
                self._quote = char
            elif char in "{[(":
                self._awaited.append(_CLOSERS[char])
            elif char in "}])":
                if self._awaited:
                    self._awaited.pop()
                if not self._awaited:
                    return at + 1
        return None

    def _read_in_string(self, char: str) -> None:
        if self._escaped:
            self._escaped = False
        elif char == "\\":
            self._escaped = True
        elif char == self._quote:
            self._quote = ""


T = TypeVar("T")
Step: TypeAlias = Generator[None, None, T]  # yields while more text is needed, returns what it read

_MAX_WORD = 64  # characters, as a tool's name may have
_WORD = re.compile(r"[\w.-]*", re.ASCII)
_SPACE = re.compile(r"\s*")


class Scanner:
    """Scanner over what has come of a text and is not read; `passed()` gives back what was read.

    Every character is read once, so that the time is linear in the text however it comes.
    """

    def __init__(self) -> None:
        self.ended = False
        self._text = ""
        self._at = 0  # what is before it has been read
        self._passed: list[str] = []

    def add(self, piece: str) -> None:
        """Take in what has come."""
        self._text, self._at = self._text[self._at :] + piece, 0

    @property
    def next(self) -> str:
        """Return the character to be read next, "" where none has come."""
        return self._text[self._at : self._at + 1]

    def take(self, count: int) -> str:
        """Read so many characters that have come."""
        taken = self._text[self._at : self._at + count]
        self._at += len(taken)
        self._passed.append(taken)
        return taken

    def take_to(self, pattern: re.Pattern[str]) -> str:
        """Read up to where a pattern is found, or all that has come."""
        found = pattern.search(self._text, self._at)
        return self.take((found.start() if found else len(self._text)) - self._at)

    def passed(self) -> str:
        """Return all that was read since the last call."""
        text = "".join(self._passed)
        self._passed.clear()
        return text

    def literal(self, word: str) -> Step[bool]:
        """Read a word if it comes next."""
        while not self.ended and word.startswith(self._text[self._at : self._at + len(word)]):
            if self._text.startswith(word, self._at):
                break
            yield
        found = self._text.startswith(word, self._at)
        self.take(len(word) if found else 0)
        return found

    def space(self) -> Step[str]:
        """Read over white space; return the character behind it, "" at the end."""
        while True:
            self._take_all(_SPACE)
            if self.next or self.ended:
                return self.next
            yield

    def word(self) -> Step[str]:
        """Read the characters of a name, up to the first that cannot be in one."""
        found = ""
        while True:
            found += self._take_all(_WORD)
            if self.next or self.ended or len(found) > _MAX_WORD:
                return found
            yield

    def value(self, end: JsonEnd) -> Step[str]:
        """Read to the end of a value in brackets, or of the text."""
        parts: list[str] = []
        while True:
            piece, is_over = self.piece(end)
            parts.append(piece)
            if is_over or self.ended:
                return "".join(parts)
            yield

    def piece(self, end: JsonEnd) -> tuple[str, bool]:
        """Read as much of a value as has come; return it, and whether its end has."""
        at = end.find(self._text, self._at)
        return self.take((len(self._text) if at is None else at) - self._at), at is not None

    def _take_all(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._at)
        return self.take(match.end() - self._at) if match else ""
