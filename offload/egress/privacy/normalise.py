"""Normalised text: what detectors read, with the position of each character in the original.

Full-width and mathematical letters become plain ones, digits of any script 0 to 9, accents and
invisible characters fall away, lookalikes of other alphabets become Latin, and JSON's escapes the
characters they stand for. The detectors read only
this, so that a number is not hidden by the way it is written.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

# Letters that cannot be told from a Latin one by eye (Unicode TR 39, confusables, the plain ones).
_LOOKALIKES = str.maketrans(
    "АВЕЅІЈКМНОРСТУХаеорсухѕіјԁһԛԝѵΑΒΕΖΗΙΚΜΝΟΡΤΥΧονρıȷɡοαƖⅼŁłØøĐđ",
    "ABESIJKMHOPCTYXaeopcyxsijdhqwvABEZHIKMNOPTYXovpijgoallLlOoDd",
)
_DASHES = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63\uff0d\u2043\u02d7\u2796"
_QUOTES = "\u2018\u2019\u201b\u2032`\u00b4"
_DOTS = "\u3002\u2024\u00b7\u2027\u2219\u22c5\u2022"
_CHARACTER = re.compile(r"\\u([0-9a-fA-F]{4})|.", re.DOTALL)
_BLANK = {"Cc", "Zl", "Zp", "Zs"}


@dataclass(frozen=True)
class Normalised:
    """Normalised text; `starts` and `ends` say where each of its characters came from."""

    text: str
    starts: list[int] | range
    ends: list[int] | range

    def origin(self, start: int, end: int) -> tuple[int, int]:
        """Return where [start, end) of the text stands in the original."""
        return self.starts[start], self.ends[end - 1]


def normalise(text: str) -> Normalised:
    """Return the text in its plain form."""
    if text.isascii() and "\\u" not in text:
        return Normalised(text, range(len(text)), range(1, len(text) + 1))
    plain: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    for found in _CHARACTER.finditer(text):
        escaped = found[1]
        for each in _plain(chr(int(escaped, 16)) if escaped else found[0]):
            plain.append(each)
            starts.append(found.start())
            ends.append(found.end())
    return Normalised("".join(plain), starts, ends)


@lru_cache(maxsize=4096)
def _plain(character: str) -> str:
    """Return what a character is read as: none, one or a few."""
    if character.isascii():
        return character
    if character in _DASHES:
        return "-"
    if character in _QUOTES:
        return "'"
    if character in _DOTS:
        return "."
    category = unicodedata.category(character)
    if category in ("Cf", "Mn", "Me") or character in "\u1160\u3164\uffa0\u034f":
        return ""  # zero-width, soft hyphens, marks put upon letters, variation selectors
    if category in _BLANK:
        return " "
    if category == "Nd":
        return str(unicodedata.digit(character))
    whole = unicodedata.normalize("NFKD", character.translate(_LOOKALIKES))
    bare = "".join(c for c in whole if unicodedata.category(c) not in ("Mn", "Cf"))
    return bare.translate(_LOOKALIKES)
