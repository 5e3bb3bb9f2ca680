"""Features of capitalised words: what a recogniser of names and places knows of each, hashed.

They are those of Ratinov and Roth, "Design Challenges and Misconceptions in Named Entity
Recognition" (CoNLL 2009), without a tagger: the word, its ends, its shape, its neighbours, and
whether lists of given names, family names, places and everyday words have it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from zlib import crc32

NUM_BUCKETS = 1 << 17
# A word, also with hyphens and apostrophes inside; the 's of a genitive stands alone.
TOKEN = re.compile(r"'s\b|[^\W\d_]+(?:[-'](?!s\b)[^\W\d_]+)*|\d+(?:[.,]\d+)*|[^\w\s]|_")
_ENDS = frozenset('.!?:;"()')
_LONGEST_PLACE = 3  # words of a place's name that are looked up together


@dataclass(frozen=True, kw_only=True)
class WordLists:
    """Lists of words by the hash of their lower-case form; `places` has names of several words."""

    given: frozenset[int]
    family: frozenset[int]
    places: frozenset[int]
    everyday: frozenset[int]

    def code(self, word: str) -> str:
        """Return which of the lists have a word, as a few letters."""
        key = hashed(word.lower())
        lists = (("g", self.given), ("f", self.family), ("p", self.places), ("e", self.everyday))
        return "".join(letter for letter, words in lists if key in words)


@dataclass(frozen=True)
class Tokens:
    """Tokens of a text with where they stand, and the numbers of those that may be entities."""

    words: list[str]
    starts: list[int]
    ends: list[int]
    capitalised: list[int]
    begins: list[bool]  # whether a sentence begins with it, as far as signs tell

    @classmethod
    def of(cls, text: str) -> Tokens:
        """Return the tokens of a text."""
        found = list(TOKEN.finditer(text))
        words = [match[0] for match in found]
        starts = [match.start() for match in found]
        ends = [match.end() for match in found]
        begins = [
            n == 0 or words[n - 1] in _ENDS or "\n" in text[ends[n - 1] : starts[n]]
            for n in range(len(words))
        ]
        capitalised = [n for n, word in enumerate(words) if word[0].isupper()]
        return cls(words, starts, ends, capitalised, begins)

    def touch(self, left: int, right: int) -> bool:
        """Whether two tokens stand beside each other."""
        return right == left + 1 and 0 < self.starts[right] - self.ends[left] <= 2


def hashed(text: str) -> int:
    """Return the hash by which words are kept."""
    return crc32(text.encode("utf-8", "surrogatepass"))


def shape(word: str) -> str:
    """Return a word's shape: Xx, XX, Xx-Xx, 9, or the sign itself."""
    plain = "".join(
        "X" if c.isupper() else "x" if c.islower() else "9" if c.isdigit() else c for c in word
    )
    return re.sub(r"(.)\1+", r"\1", plain) + ("+" if len(word) > 3 else str(len(word)))


def in_long_places(tokens: Tokens, lists: WordLists) -> set[int]:
    """Return the tokens that are part of a place of two or three words."""
    found: set[int] = set()
    for n in tokens.capitalised:
        for length in range(2, _LONGEST_PLACE + 1):
            if hashed(" ".join(tokens.words[n : n + length]).lower()) in lists.places:
                found.update(range(n, n + length))
    return found


def features(tokens: Tokens, lists: WordLists) -> list[list[int]]:
    """Return the buckets of each capitalised token's features."""
    codes = {n: lists.code(tokens.words[n]) for n in _near(tokens)}
    long_places = in_long_places(tokens, lists)
    return [
        [hashed(each) % NUM_BUCKETS for each in _features(tokens, n, codes, n in long_places)]
        for n in tokens.capitalised
    ]


def _near(tokens: Tokens) -> set[int]:
    there = {n + by for n in tokens.capitalised for by in (-1, 0, 1)}
    return {n for n in there if 0 <= n < len(tokens.words)}


def _features(tokens: Tokens, n: int, codes: dict[int, str], in_long_place: bool) -> Sequence[str]:
    word, low = tokens.words[n], tokens.words[n].lower()
    before, before2 = _word(tokens, n - 1), _word(tokens, n - 2)
    after, after2 = _word(tokens, n + 1), _word(tokens, n + 2)
    code, form, begins = codes[n], shape(word), str(int(tokens.begins[n]))
    code_before, code_after = codes.get(n - 1, ""), codes.get(n + 1, "")
    form_before, form_after = shape(before), shape(after)
    return (
        "bias",
        f"w {word}",
        f"l {low}",
        f"b3 {low[:3]}",
        f"e2 {low[-2:]}",
        f"e3 {low[-3:]}",
        f"e4 {low[-4:]}",
        f"s {form}",
        f"c {code}",
        f"cb {code} {begins}",
        f"cl {code} {int(in_long_place)}",
        f"-1 {before.lower()}",
        f"-2 {before2.lower()} {before.lower()}",
        f"+1 {after.lower()}",
        f"+2 {after.lower()} {after2.lower()}",
        f"-1c {before.lower()} {code}",
        f"+1c {after.lower()} {code}",
        f"-1s {form_before} {code} {code_before}",
        f"+1s {form_after} {code} {code_after}",
        f"a {before.lower()} {after.lower()}",
        f"as {form_before} {form_after} {code} {begins}",
        f"bc {begins} {form} {form_after} {code_after}",
    )


def _word(tokens: Tokens, n: int) -> str:
    return tokens.words[n] if 0 <= n < len(tokens.words) else ""
