"""Where a bracketed value ends, found while it is still being written."""

from __future__ import annotations

_CLOSERS = {"{": "}", "[": "]", "(": ")"}


class JsonEnd:
    """Follows brackets outside of strings, piece by piece; `opened` are closers awaited already.

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
