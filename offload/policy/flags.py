"""What is wrong with an answer whoever wrote it: it runs in circles, declines, or breaks JSON."""

from __future__ import annotations

import json
import re

# How likely a flagged answer is right where calibration saw too few of its kind to say.
UNSEEN_RIGHT = 0.3
MIN_SEEN = 20

_DECLINES = re.compile(
    r"\s*(?:(?:i'?m|i am) (?:sorry|afraid|unable|not able)|sorry,|unfortunately,? i|as an ai"
    r"|i (?:do not|don'?t|can ?not|can'?t|am not able to) (?:know|answer|help|tell|provide|do that)"
    r"|i have no (?:idea|information))",
    re.IGNORECASE,
)
_TAIL = 400  # characters looked at for circles
_ROUNDS = 4


def flags(text: str, *, wants_json: bool = False) -> tuple[str, ...]:
    """Return the names of what is wrong with a finished answer."""
    found = []
    if circles(text):
        found.append("circles")
    if _DECLINES.match(text.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")):
        found.append("declines")
    if (wants_json or text.lstrip().startswith(("{", "["))) and not _is_json(text):
        found.append("broken_json")
    return tuple(found)


def circles(text: str) -> bool:
    """Whether a text ends in one piece of 3 to 100 characters said four times in a row."""
    return _round(text) > 0


def circle_start(text: str) -> int:
    """Return where a text that ends in circles begins to say its piece for the second time.

    The length of the text where it does not run in circles.
    """
    length = _round(text)
    if not length:
        return len(text)
    start = len(text) - length
    while start > 0 and text[start - 1] == text[start - 1 + length]:
        start -= 1
    return start + length


def _round(text: str) -> int:
    """Return the length of the piece that a text ends in four times, 0 where there is none."""
    tail = text[-_TAIL:]
    for length in range(3, len(tail) // _ROUNDS + 1):
        piece = tail[-length:]
        # A row of one character is a line or a table's edge, which people write on purpose.
        if len(set(piece)) > 1 and tail.endswith(piece * _ROUNDS):
            return length
    return 0


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):  # an answer of brackets alone nests without end
        return False
    return True
