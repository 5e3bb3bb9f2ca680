"""Name detector: the names that a person has listed as private."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

from offload.egress.privacy.normalise import normalise


def find_names(text: str, names: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Find listed names in any case: whole, turned round, with initials, or the last one alone.

    Letters set apart ("M a r i a") are read as a name too. A last name alone must be capitalised.
    """
    if names:
        for pattern in _patterns(tuple(names)):
            yield from (match.span() for match in pattern.finditer(text))


@lru_cache(maxsize=16)
def _patterns(names: tuple[str, ...]) -> tuple[re.Pattern[str], ...]:
    anyhow: list[str] = []
    capitalised: list[str] = []
    for name in names:
        parts = normalise(name).text.split()
        if not parts:
            continue
        anyhow.append(r"[\s_.-]{0,3}".join(map(_spaced, parts)))
        if len(parts) > 1:
            given, family = " ".join(parts[:-1]), parts[-1]
            anyhow.append(rf"{_spaced(family)},?\s{{1,2}}{_spaced(given)}")
            initials = r"\s?".join(rf"{re.escape(part[0])}\." for part in parts[:-1])
            anyhow.append(rf"{initials}\s?{_spaced(family)}")
            if len(family) >= 4:
                capitalised += [
                    re.escape(family[:1].upper() + family[1:]),
                    re.escape(family.upper()),
                ]
    patterns = []
    if anyhow:
        patterns.append(re.compile(rf"(?<![^\W_])(?:{'|'.join(anyhow)})(?![^\W_])", re.IGNORECASE))
    if capitalised:
        patterns.append(re.compile(rf"(?<![^\W_])(?:{'|'.join(capitalised)})(?![^\W_])"))
    return tuple(patterns)


def _spaced(word: str) -> str:
    """Return a pattern for a word whose letters may be set apart by a blank or a mark each."""
    return r"[\s._*-]?".join(re.escape(letter) for letter in word if not letter.isspace())
