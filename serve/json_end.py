"""Where a JSON object ends, found while it is still being written."""

from __future__ import annotations


class JsonEnd:
    """Counts brackets outside of strings, piece by piece; `depth` are those open already."""

    def __init__(self, depth: int = 0) -> None:
        self._depth = depth
        self._in_string = self._escaped = False

    def find(self, text: str) -> int | None:
        """Return where in the next piece the object has ended, or None while it has not.

        That is behind its last bracket, or before a `<`, which no JSON has outside of strings: a
        model that forgot a bracket goes on with a tag.
        """
        for at, char in enumerate(text):
            if self._in_string:
                self._read_in_string(char)
            elif char == "<":
                return at
            elif char == '"':
                self._in_string = True
            elif char in "{[":
                self._depth += 1
            elif char in "}]":
                self._depth -= 1
                if self._depth <= 0:
                    return at + 1
        return None

    def _read_in_string(self, char: str) -> None:
        if self._escaped:
            self._escaped = False
        elif char == "\\":
            self._escaped = True
        elif char == '"':
            self._in_string = False
