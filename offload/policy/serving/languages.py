"""Which language a text is in, as far as its letters and its commonest words tell."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

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
