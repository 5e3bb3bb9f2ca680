"""Closed text: the part of an unfinished text behind which no value that is redacted has begun.

A value is known once it is whole. Where text leaves before it is, as the beginning of an answer
that another model goes on with, half a card number would leave unseen, and its rest the next time.
"""

from __future__ import annotations

from collections.abc import Iterable

_MOST_DIGITS = 3  # that may stand at the end: more may be the first group of a card's
_FEWEST_KNOWN = 3  # characters of a known value that tell it
_SIGNS = "+-()./"  # between groups, or in one
_TAIL = 400  # characters in which a value may have begun
_KEY_BEGINS, _KEY_ENDS = "-----BEGIN", "-----END"


def closed_part(text: str, values: Iterable[str] = ()) -> str:
    """Return a text up to where a value may have begun that its end does not complete.

    `values` are those known to be private: their first characters are enough.
    """
    cut = min(_behind_groups(text), _behind_known(text, values), _behind_key(text))
    return text[:cut]


def _behind_groups(text: str) -> int:
    """Return where the last groups of digits begin, if they may become a number of some kind.

    A group may hold capitals, as those of an IBAN do.
    """
    at = begin = len(text)
    digits = 0
    while at > max(0, len(text) - _TAIL):
        end = len(text[:at].rstrip(" \t\n"))
        start = end
        while start > 0 and not text[start - 1].isspace():
            start -= 1
        word = text[start:end]
        if not _is_group(word):
            break
        count = sum(each.isdigit() for each in word)
        digits, at = digits + count, start
        begin = start if count or begin < len(text) else begin
    return begin if digits > _MOST_DIGITS else len(text)


def _is_group(word: str) -> bool:
    if not word or not all(each.isdigit() or each.isupper() or each in _SIGNS for each in word):
        return False
    return len(word) < 6 or not word.isalpha()


def _behind_known(text: str, values: Iterable[str]) -> int:
    """Return where a known value begins that is not whole at the end of the text."""
    places = [at for at, each in enumerate(text) if each.isalnum()][-_TAIL:]
    tail = "".join(text[at] for at in places).lower()
    cut = len(text)
    for value in values:
        bare = "".join(each for each in value if each.isalnum()).lower()
        for size in range(min(len(bare) - 1, len(tail)), _FEWEST_KNOWN - 1, -1):
            if tail.endswith(bare[:size]):
                cut = min(cut, places[-size])
                break
    return cut


def _behind_key(text: str) -> int:
    begins = text.rfind(_KEY_BEGINS)
    return begins if begins > text.rfind(_KEY_ENDS) else len(text)
