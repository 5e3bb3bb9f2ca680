"""Entity detector: names of persons and places that stand on no list, by a small linear model.

Every capitalised word is judged by what is known of it and its neighbours, then once more by what
was thought of the words beside it and of the same word elsewhere in the text. What is written
small, and scripts without capitals, are not read. `scripts/train_entities` makes the weights.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from offload.egress.privacy.entity_features import Tokens, WordLists, features

EntityKind = Literal["person", "place"]

WEIGHTS = Path(__file__).parent / "entities.npz"
LABELS: tuple[EntityKind | None, ...] = (None, "person", "place")
# Words between two parts of one name: Ludwig van Beethoven, Rio de Janeiro.
_JOINING = frozenset(
    [
        "al",
        "bin",
        "da",
        "de",
        "del",
        "della",
        "den",
        "der",
        "di",
        "do",
        "dos",
        "du",
        "el",
        "la",
        "le",
        "of",
        "st",
        "van",
        "von",
        "y",
    ]
)

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class EntityModel:
    """Weights of the recogniser.

    `first` is [buckets, 3], of 8 bits with a `scale` for each label. `again` is [12, 3]: of a
    word's own scores, the probabilities of the words before and after it, and of the same word
    elsewhere. `margin` is what an entity's score must be above that of a plain word.
    """

    first: NDArray[np.int8]
    scale: Floats
    again: Floats
    bias: Floats
    margin: Floats
    lists: WordLists

    def scores(self, tokens: Tokens) -> Floats:
        """Return a score for each label of each capitalised token, [tokens, 3]."""
        rows = features(tokens, self.lists)
        if not rows:
            return np.zeros((0, len(LABELS)), np.float32)
        own = self.first[np.array(rows)].sum(axis=1, dtype=np.float32) * self.scale
        return second_look(tokens, own) @ self.again + self.bias


def second_look(tokens: Tokens, own: Floats) -> Floats:
    """Return what the second judgement reads: [tokens, 12]."""
    likely = np.exp(own - own.max(axis=1, keepdims=True))
    likely /= likely.sum(axis=1, keepdims=True)
    place = {n: row for row, n in enumerate(tokens.capitalised)}
    before, after, same = (np.zeros_like(likely) for _ in range(3))
    rows_of: dict[str, list[int]] = defaultdict(list)
    for n, row in place.items():
        rows_of[tokens.words[n]].append(row)
        if n - 1 in place and tokens.touch(n - 1, n):
            before[row] = likely[place[n - 1]]
        if n + 1 in place and tokens.touch(n, n + 1):
            after[row] = likely[place[n + 1]]
    for rows in rows_of.values():
        if len(rows) > 1:
            same[rows] = (likely[rows].sum(axis=0) - likely[rows]) / (len(rows) - 1)
    return np.concatenate([own, before, after, same], axis=1)


def find_entities(text: str) -> Iterator[tuple[EntityKind, int, int]]:
    """Find persons and places, each where its name begins and ends."""
    tokens = Tokens.of(text)
    model = load_model()
    scores = model.scores(tokens) - model.margin
    labels = {
        n: LABELS[int(label)]
        for n, label in zip(tokens.capitalised, scores.argmax(axis=1), strict=True)
    }
    end = -1
    for n in tokens.capitalised:
        kind = labels[n]
        if kind is not None and n > end:
            end = _end(tokens, n, labels)
            yield kind, tokens.starts[n], tokens.ends[end]


def _end(tokens: Tokens, start: int, labels: dict[int, EntityKind | None]) -> int:
    """Return the last token of the name that begins at `start`."""
    end, at, kind = start, start + 1, labels[start]
    while at < len(tokens.words) and tokens.starts[at] - tokens.ends[at - 1] <= 2:
        if labels.get(at) == kind:
            end = at
        elif tokens.words[at].lower() not in _JOINING and not _is_initial(tokens, at):
            break
        at += 1
    return end


def _is_initial(tokens: Tokens, at: int) -> bool:
    """Whether a token is the stop behind an initial, as in J. R. Ewing."""
    before = tokens.words[at - 1]
    return tokens.words[at] == "." and len(before) == 1 and before.isupper()


@lru_cache(maxsize=1)
def load_model() -> EntityModel:
    """Return the recogniser that comes with nearfar."""
    with np.load(WEIGHTS, allow_pickle=False) as kept:
        lists = {name: frozenset(kept[name].tolist()) for name in WordLists.__annotations__}
        arrays = {name: kept[name] for name in ("first", "scale", "again", "bias", "margin")}
    return EntityModel(**arrays, lists=WordLists(**lists))
