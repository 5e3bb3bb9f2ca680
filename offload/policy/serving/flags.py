"""What is wrong with an answer whoever wrote it: circles, a refusal, a broken end, the wrong words.

No model is needed for it, so it can be seen while the answer is written.
"""

from __future__ import annotations

import json
import re

from offload.policy.serving.languages import LOOKED_AT, other_language

# How likely a flagged answer is right where calibration saw too few of its kind to say.
UNSEEN_RIGHT = 0.3
MIN_SEEN = 20

_DECLINES = re.compile(
    r"\s*(?:(?:i'?m|i am) (?:sorry|afraid|unable|not able)|sorry,|unfortunately,? i|as an ai"
    r"|i (?:do not|don'?t|can ?not|can'?t|am not able to) (?:know|answer|help|tell|provide|do that)"
    r"|i have no (?:idea|information))",
    re.IGNORECASE,
)
_TAIL, _ROUNDS = 400, 4  # characters looked at for circles, and how often a piece is said
_LONG_TAIL, _LONG_ROUNDS, _ANCHOR = 2400, 3, 40  # of pieces longer than a quarter of the tail
_BROKEN_END = re.compile(
    r"(?:[,(\[{]|\b(?:the|a|an|of|to|and|or|with|for|in|is|are|that|der|die|das|und|von|mit|le|la"
    r"|les|de|et|el|los|y|del))\s*\Z",
    re.IGNORECASE,
)
_LEAST_WORDS = 6


def flags(
    text: str, *, question: str = "", ended: str = "stop", wants_json: bool = False
) -> tuple[str, ...]:
    """Return the names of what is wrong with a finished answer.

    `ended` is why it ended: only an answer that ended of itself can have broken off.
    """
    found = list(seen_while_written(text, question))
    if ended == "stop" and breaks_off(text):
        found.append("breaks_off")
    if (wants_json or text.lstrip().startswith(("{", "["))) and not _is_json(text):
        found.append("broken_json")
    return tuple(found)


def seen_while_written(text: str, question: str = "") -> tuple[str, ...]:
    """Return the names of what is wrong with an answer however it goes on."""
    found = []
    if circles(text):
        found.append("circles")
    if declines(text) and "sorry" not in question.lower():
        found.append("declines")
    if len(text) <= LOOKED_AT and other_language(question, text):
        found.append("other_language")
    return tuple(found)


def declines(text: str) -> bool:
    """Whether a text begins as a refusal does."""
    return bool(_DECLINES.match(text.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")))


def breaks_off(text: str) -> bool:
    """Whether a text of some length stops in the middle of a sentence."""
    return len(text.split()) >= _LEAST_WORDS and bool(_BROKEN_END.search(text[-40:]))


def circles(text: str) -> bool:
    """Whether a text ends in one piece said again and again.

    That is a piece of 3 to 100 characters four times in a row, or of up to 800 three times.
    """
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
    """Return the length of the piece that a text ends in again and again, 0 where none is."""
    tail = text[-_TAIL:]
    for length in range(3, len(tail) // _ROUNDS + 1):
        if tail[-1 - length] != tail[-1]:
            continue
        piece = tail[-length:]
        # A row of one character is a line or a table's edge, which people write on purpose.
        if tail.endswith(piece * _ROUNDS) and len(set(piece)) > 1:
            return length
    return _long_round(text[-_LONG_TAIL:])


def _long_round(tail: str) -> int:
    anchor = tail[-_ANCHOR:]
    before = tail.rfind(anchor, 0, len(tail) - 1)
    length = len(tail) - len(anchor) - before
    long = before >= 0 and len(set(anchor)) > 1
    return length if long and tail.endswith(tail[-length:] * _LONG_ROUNDS) else 0


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):  # an answer of brackets alone nests without end
        return False
    return True
