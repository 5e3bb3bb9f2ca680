"""Words of a text as an index counts them: in lower case, Chinese by pairs of characters.

Chinese and Japanese have no spaces: pairs of characters are the usual words of an index.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

_WORD = re.compile(r"[^\W_]+")
_WIDE = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]+")

# Words of which questions are made: rare in a text, they would outweigh what is asked about.
_OF_QUESTIONS = (
    "a about an and any are at be by can could did do does for from get had has have how i in is "
    "it its many me much my near no not of on or own s say tell that the their them there they "
    "this to was were what when where which who whom whose why will with would you your"
)
_ASKING = frozenset(_OF_QUESTIONS.split())


def asked_words(question: str) -> list[str]:
    """Return the different words of a question that say what it is about; all where none does."""
    words = list(dict.fromkeys(words_of(question)))
    return [word for word in words if word not in _ASKING] or words


def words_of(text: str) -> Iterator[str]:
    """Yield the words of a text in its order."""
    for word in _WORD.findall(text.lower()):
        at = 0
        for wide in _WIDE.finditer(word):
            if wide.start() > at:
                yield word[at : wide.start()]
            yield from _pairs(wide[0])
            at = wide.end()
        if at < len(word):
            yield word[at:]


def _pairs(characters: str) -> Iterator[str]:
    if len(characters) == 1:
        yield characters
    yield from map("".join, itertools.pairwise(characters))
