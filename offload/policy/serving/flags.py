"""Flags of a bad answer: circles, a refusal, a broken end, broken JSON, the wrong language.

No model is needed for it, so it can be seen while the answer is written.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter

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
LOOKED_AT = 400  # characters at the start of a text
_LEAST_LETTERS, _LEAST_COMMON = 12, 4
_CLEAR = 0.7  # the share of letters, or of common words, that makes it clear
_WORD = re.compile(r"[^\W\d_]+")
# fmt: off
_COMMON = {
    "English": "the and of to is in that it you for are with this was have not be on what how can",
    "German": "der die das und ist nicht ein eine ich sie mit auf den von zu wie für auch es",
    "French": "le la les et est une des pas que vous pour dans ce sur qui avec je du au il sont",
    "Spanish": "el los las y es una que no por con para se del su como más pero le al son está",
    "Italian": "il gli e è una che non per con del sono come più ma della nel questo anche si di",
    "Portuguese": "o os as e é uma que não por com para se do da como mais mas em são você no",
}
# fmt: on
_WORDS = {name: frozenset(words.split()) for name, words in _COMMON.items()}
_SAID = re.compile(
    r"translat|übersetz|traduc|traduz|traduis|languages?\b|sprache|idioma|langue|lingua"
    r"|how do you say"
    r"|\b(?:in|into|to|auf|en|em|ins)\s+(?:english|german|french|spanish|italian|portuguese|chinese"
    r"|japanese|russian|arabic|korean|latin|greek|hindi|turkish|dutch|polish|deutsch|englisch"
    r"|französisch|spanisch|inglés|francés|alemán|anglais|allemand|espagnol|inglês|inglese)",
    re.IGNORECASE,
)


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


def other_language(question: str, answer: str) -> bool:
    """Whether an answer is clearly in another language than its question, which names none.

    Only clear cases: another script, or another of six languages by their commonest words.
    """
    if _SAID.search(question):
        return False
    ours, theirs = _script(question), _script(answer)
    if ours and theirs and ours != theirs:
        return True
    asked, given = _language(question), _language(answer)
    return bool(asked and given and asked != given)


def _script(text: str) -> str:
    """Return the script of most letters (LATIN, CJK, CYRILLIC, ...), empty where none is clear."""
    letters = [each for each in text[:LOOKED_AT] if each.isalpha()]
    if len(letters) < _LEAST_LETTERS:
        return ""
    if text[:LOOKED_AT].isascii():
        return "LATIN"
    found = Counter(unicodedata.name(each, "").partition(" ")[0] for each in letters)
    # Japanese mixes its own letters with Chinese ones.
    for kana in ("HIRAGANA", "KATAKANA"):
        found["CJK"] += found.pop(kana, 0)
    name, count = found.most_common(1)[0]
    return name if count >= _CLEAR * len(letters) else ""


def _language(text: str) -> str:
    words = [word.lower() for word in _WORD.findall(text[:LOOKED_AT])]
    found = {name: sum(map(common.__contains__, words)) for name, common in _WORDS.items()}
    name = max(found, key=lambda each: found[each])
    clear = found[name] >= max(_LEAST_COMMON, _CLEAR * sum(found.values()))
    return name if clear else ""
