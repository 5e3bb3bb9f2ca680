"""Envelope detector: addresses of any country by a street, a number and a code.

The text is spelt as kinds of words, one letter each, and the shape of an address is looked for in
that. So neither the words for street nor the names of cities need be known.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from offload.egress.privacy.linear import Pattern

_TOKEN = re.compile(
    r"(?P<long>\d[A-Za-z0-9]{24,})"  # neither a code nor a number
    r"|(?P<code>(?:[A-Z]{1,3}-)?(?:\d{2}-\d{3}|\d{4,5}-\d{3,4}|\d{4,8})(?![\w-]))"
    r"|(?P<number>\d{1,5}(?:[/-]?[A-Za-z0-9]{1,3}){0,3}\.?(?![\w-])|[Ss]/[Nn])"
    r"|(?P<sign>#|(?i:num|n[or]?|nro|br|c|h\.?no|km)[°.]?(?=\s?\d))"
    r"|(?P<word>[^\W\d_](?:[\w']|[.-](?=[^\W\d_]))*\.?)"
    r"|(?P<other>[,\n/-]|[^\s\w])"
)
_OUTWARD = re.compile(r"[A-Z]{1,2}\d[A-Z\d]?")
# What stands between two capitalised words of a name, in many languages.
_SMALL = re.compile(
    r"a|al|am|an|auf|bei|da?|das|de[ilnrs]?|dell[ae]|di|do|dos|du|[eiouyz]|el|en|et|i[mn]|l[ae]|"
    r"las|l[eo]s|na|nad|o[bfp]|och|og|pod|por|pri|sous|su[lr]|te[nr]|the|upon|v|van|vo[mn]|"
    r"z[aeu]|zu[mr]"
)
_MONTH = re.compile(
    r"jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|"
    r"sept?(?:ember)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?"
)
# Lower-case words before a number that is no house's.
_NO_STREET = re.compile(
    r"about|after|all|and|are|around|at|before|between|but|by|did|for|from|ha[ds]|have|into|is|"
    r"just|not|only|or|over|page|per|than|that|then|to|until|was|were|when|will|with|within"
)
_YEARS = range(1700, 2100)

# The letters: C a capitalised word, u an initial or up to three capitals, s a small word between
# such, l another lower-case word, d an abbreviation with a full stop, n a sign for "number",
# N a number, Y one of four digits that may be a year, F another of four, Z a longer postal code,
# E the first half of one with letters, x anything else. What follows is read, too: a Z before a
# comma or the end of a line is W, and an N before a capitalised word is M.
_NAME = r"[ud]{0,2}C(?:s{0,2}[Cdu]){0,5}"
_N = r"[NM]"
_NUMBER = rf"[nd]?(?:{_N}|[FYW])"
_FLAT = rf"(?:[Cdl]?n?{_N},?\n?){{0,2}}"
_HOUSE = rf"{_FLAT}[Cdl]?(?:{_NAME}[ls]?,?{_NUMBER}(?:/?[uNM]){{0,2}}|{_NUMBER},?{_N}?{_NAME}l?)"
_ROOM = rf"(?:,?[Cudln-]{{1,4}}{_N}){{0,4}}"
_BREAK = r"[,\n-]{1,3}"
_BETWEEN = rf"(?:{_BREAK}(?:[Csu]{{1,5}}{_N}?|[Cudl]?n?[NMFC]){{1,2}}){{0,3}}?"
_CODE = rf"(?:F|E{_N}|u?(?:[ZW]|{_N}M))"
_ANY_CODE = re.compile(r"[ZWFE]|[NM][NM]")  # without one the search is for nothing
_BEHIND_CODE = rf",?\n?{_NAME}{_N}?"
_PLACE = rf"(?:{_CODE}{_BEHIND_CODE}|{_NAME}(?:,\n?|\n|-)?u?(?:[ZWF]|E{_N}))"
_PLACE_AT_ONCE = rf"(?:[ZW]|E{_N}){_BEHIND_CODE}"
_REGION = rf"(?:[,/-]?(?:{_NAME}|u)){{0,2}}"
_SHAPES = (
    Pattern(rf"{_HOUSE}{_ROOM}{_BETWEEN}(?:{_BREAK}{_PLACE}|{_PLACE_AT_ONCE}){_REGION}"),
    # From the large to the small, each with its kind: city, street, house, and the code alone.
    Pattern(rf"[du]{_NAME},[du]{_NAME},?[du]{_N}(?:,?[du]{_N}){{0,3}},[ZW]"),
)
_BEFORE_BREAK, _BEFORE_NAME = re.compile(r"Z(?=[,\n])"), re.compile(r"N(?=,?C)")


def find_envelopes(text: str) -> Iterator[tuple[int, int]]:
    """Find a street with a number, and behind it a place with a postal code."""
    if not any(character.isdigit() for character in text):
        return
    spans, letters = [], []
    for token in _TOKEN.finditer(text):
        letters.append(_letter(token))
        spans.append(token.span())
    spelt = "".join(letters)
    if not _ANY_CODE.search(spelt):
        return
    spelt = _BEFORE_NAME.sub("M", _BEFORE_BREAK.sub("W", spelt))
    for shape in _SHAPES:
        for start, end in shape.spans(spelt.encode("ascii")):
            yield spans[start][0], spans[end - 1][1]


def _letter(token: re.Match[str]) -> str:
    said = token.group()
    if token.lastgroup == "code":
        return _of_code(said)
    if token.lastgroup == "number":
        return "N"
    if token.lastgroup == "sign":
        return "n"
    if token.lastgroup in ("other", "long"):
        return said if said in ",\n/-" else "x"
    return _of_word(said)


def _of_code(said: str) -> str:
    if len(said) != 4:
        return "Z"
    return "Y" if int(said) in _YEARS else "F"


def _of_word(said: str) -> str:
    bare = said.rstrip(".").lower()
    if _MONTH.fullmatch(bare):
        return "x"
    if _SMALL.fullmatch(said):
        return "s"
    if said[-1] == "." and len(bare) <= 5 and (len(bare) > 1 or said[0].islower()):
        return "d"
    if _OUTWARD.fullmatch(said):
        return "E"
    if not said[0].islower():
        return "u" if len(bare) == 1 or (len(bare) <= 3 and bare.upper() == said) else "C"
    return "x" if _NO_STREET.fullmatch(bare) else "l"
