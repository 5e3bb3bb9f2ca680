"""Hostile texts, made from an expression's own parts: what it repeats, repeated to any length."""

from __future__ import annotations

import random
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

if sys.version_info >= (3, 11):
    from re import _constants as c
    from re import _parser as parser
else:
    import sre_constants as c
    import sre_parse as parser

_CLASSES = {
    c.CATEGORY_DIGIT: "07",
    c.CATEGORY_NOT_DIGIT: "aA -",
    c.CATEGORY_SPACE: " \n",
    c.CATEGORY_NOT_SPACE: "aA0-",
    c.CATEGORY_WORD: "aA0_",
    c.CATEGORY_NOT_WORD: " -.",
}
_ANYTHING = "aA0 -.,/\n@\"'"
_ENDS = ("", "\x00", "!", " ", "\n", "9")
_MOST_DRAWN = 4  # of one repetition, in a part


@dataclass(frozen=True)
class Hostile:
    """A text of any length: a beginning, a part again and again, and an end that fits nothing."""

    before: str
    part: str
    end: str

    def grown(self, length: int) -> str:
        """Return the text at about that length."""
        room = max(0, length - len(self.before) - len(self.end))
        return self.before + self.part * (room // len(self.part)) + self.end


def hostile(pattern: str, flags: int, *, count: int, seed: int = 0) -> list[Hostile]:
    """Return so many hostile texts of an expression, drawn by a seed from its own parts."""
    chance = random.Random(f"{seed}{pattern}")
    tree = parser.parse(pattern, flags & ~re.DEBUG)
    places = list(_repeated(tree, ()))
    whole = ((), list(tree))
    found: dict[Hostile, None] = {}
    for _ in range(20 * count):
        if len(found) >= count:
            break
        before, body = chance.choice([*places, whole, *places])
        part = "".join(_drawn(body, chance) for _ in range(chance.choice((1, 1, 2))))
        if chance.random() < 0.2:
            part = part[: chance.randint(1, max(1, len(part)))]
        if part:
            found[Hostile(_drawn(before, chance), part, chance.choice(_ENDS))] = None
    return list(found)


def _repeated(items: Any, before: tuple[Any, ...]) -> Iterator[tuple[Sequence[Any], Sequence[Any]]]:
    """Yield what stands before each repetition, and what is repeated; stretches of a row, too."""
    row = list(items)
    for at, (kind, value) in enumerate(row):
        led = (*before, *row[:at])
        if kind in _REPEATS:
            yield led, list(value[2])
            yield led, [(kind, value), *row[at + 1 : at + 3]]
        for inner in _inside(kind, value):
            yield from _repeated(inner, led)


_REPEATS = {
    getattr(c, name)
    for name in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT")
    if hasattr(c, name)
}


def _inside(kind: Any, value: Any) -> list[Any]:
    if kind in _REPEATS:
        return [value[2]]
    if kind is c.SUBPATTERN:
        return [value[3]]
    if kind is c.BRANCH:
        return list(value[1])
    if kind in (c.ASSERT, c.ASSERT_NOT):
        return [value[1]]
    return []


def _drawn(items: Any, chance: random.Random) -> str:
    return "".join(_one(kind, value, chance) for kind, value in items)


def _one(kind: Any, value: Any, chance: random.Random) -> str:
    if kind is c.LITERAL:
        return chr(value)
    if kind is c.NOT_LITERAL:
        return chance.choice([each for each in _ANYTHING if ord(each) != value])
    if kind is c.ANY:
        return chance.choice(_ANYTHING)
    if kind is c.IN:
        return _of_set(value, chance)
    if kind in _REPEATS:
        least, most, body = value
        times = chance.randint(least, max(least, min(int(most), least + _MOST_DRAWN)))
        return "".join(_drawn(body, chance) for _ in range(times))
    if kind is c.BRANCH:
        return _drawn(chance.choice(value[1]), chance)
    if kind is c.SUBPATTERN:
        return _drawn(value[3], chance)
    return ""  # what looks around, or goes back, takes no room


def _of_set(members: Any, chance: random.Random) -> str:
    negated = members[0][0] is c.NEGATE
    if negated:
        refused = "".join(_of_member(each) for each in members[1:])
        return chance.choice([each for each in _ANYTHING + "x" if each not in refused] or ["x"])
    return chance.choice(_of_member(chance.choice(members)))


def _of_member(member: Any) -> str:
    kind, value = member
    if kind is c.LITERAL:
        return chr(value)
    if kind is c.RANGE:
        return chr(value[0]) + chr(value[1])
    if kind is c.CATEGORY:
        return _CLASSES[value]
    return ""
