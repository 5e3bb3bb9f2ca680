"""Linear patterns: text searched by RE2, in time linear in its length.

RE2 cannot look around itself, so a shape says what must stand before and behind it, and that is
left out of what is found. Texts are searched as ASCII of the same length: a letter of any other
script reads as "_", which `\\w` takes and no range of letters does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property

_FOREIGN_LETTER = re.compile(r"[^\W\x00-\x7f]")
_FOREIGN = re.compile(r"[^\x00-\x7f]")
_NOTHING, _STRUCK = "\x01", b"\x01"  # of no class that a shape names
# No word of an address is longer. A match is so bounded in length, and all matches together cost
# no more than the text is long.
_LONG_BLANKS = rb"\s{33,}"
_TOO_LONG = re.compile(rb"[\w'.-]{61,}|" + _LONG_BLANKS)
_TOO_BLANK = re.compile(_LONG_BLANKS)


class Pattern:
    """Pattern in RE2's syntax, compiled when it is first searched for.

    `before` and `behind` are what must stand around it; empty is anything. `unless` are beginnings
    that it must not have, in capitals where `any_case` is set.
    """

    def __init__(
        self,
        pattern: str,
        *,
        before: str = "",
        behind: str = "",
        unless: tuple[str, ...] = (),
        any_case: bool = False,
    ) -> None:
        self.source = f"(?:{before})({pattern})(?:{behind})"
        self._unless, self._any_case = unless, any_case
        # What stood behind one may stand before the next.
        self._back = 1 if before else 0

    @cached_property
    def _compiled(self) -> re.Pattern[bytes]:
        import re2

        options = re2.Options()
        options.encoding = re2.Options.Encoding.UTF8
        options.case_sensitive = not self._any_case
        options.max_mem = 64 << 20  # a state machine that fits is some ten times as quick
        compiled: re.Pattern[bytes] = re2.compile(self.source.encode(), options)
        return compiled

    def matches(self, text: bytes) -> Iterator[re.Match[bytes]]:
        """Yield the shape's places in the text, without overlaps, from the left; group 1 is it."""
        place = 0
        while (found := self._compiled.search(text, place)) is not None:
            start, end = found.span(1)
            if self._is_refused(text[start : start + 8]):
                place = start + 1
                continue
            yield found
            place = max(end - self._back, start + 1)

    def spans(self, text: bytes) -> Iterator[tuple[int, int]]:
        """Yield where the shape stands in the text, without overlaps, from the left."""
        return (found.span(1) for found in self.matches(text))

    def wide_spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Yield the same of a text of any script."""
        read, at_byte, at = text.encode(errors="replace"), 0, 0
        for start, end in self.spans(read):
            first = at + len(read[at_byte:start].decode())
            at = first + len(read[start:end].decode())
            at_byte = end
            yield first, at

    def _is_refused(self, begins: bytes) -> bool:
        if not self._unless:
            return False
        start = begins.decode(errors="replace")
        return (start.upper() if self._any_case else start).startswith(self._unless)


def as_ascii(text: str) -> bytes:
    """Return the text as ASCII of the same length."""
    if not text.isascii():
        text = _FOREIGN.sub(_NOTHING, _FOREIGN_LETTER.sub("_", text))
    return text.encode("ascii")


def without_long_words(text: bytes) -> bytes:
    """Return the text at the same length, its endless words and blanks struck out."""
    return _TOO_LONG.sub(lambda found: _STRUCK * len(found[0]), text)


def without_long_blanks(text: bytes) -> bytes:
    """Return the text at the same length, its endless blanks struck out."""
    return _TOO_BLANK.sub(lambda found: _STRUCK * len(found[0]), text)
