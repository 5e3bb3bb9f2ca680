"""Texts in which names of persons and places were labelled by hand, and what they are drawn from.

benchmarks/entities/emails.txt: 150 sentences of e-mails, written for this, with {name|p} for a
person, |l for a place and |n for what is neither right nor wrong to find (Dr Okonkwo's title, a
station). benchmarks/entities/wikitext.jsonl: 150 sentences drawn from 20 articles of WikiText-2
(raw, the test split; CC BY-SA 3.0), by their hash, with where each name stands. Neutral there is
what is named after a person or a place: ships, teams, buildings, institutions, roads.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent / "entities"
WIKITEXT = Path(__file__).parents[2] / "shared" / "data" / "wikitext2_test.txt"
_MARKED = re.compile(r"\{([^{}|]+)\|([pln])\}")
_KINDS = {"p": "person", "l": "place", "n": "neutral"}


@dataclass(frozen=True)
class LabelledSentence:
    """A sentence, and each name in it as (start, end, kind)."""

    text: str
    spans: tuple[tuple[int, int, str], ...]


def emails() -> list[LabelledSentence]:
    """Return the sentences of e-mails."""
    return [_unmarked(line) for line in (HERE / "emails.txt").read_text("utf-8").splitlines()]


def _unmarked(line: str) -> LabelledSentence:
    text, spans, at = "", [], 0
    for match in _MARKED.finditer(line):
        text += line[at : match.start()]
        spans.append((len(text), len(text) + len(match[1]), _KINDS[match[2]]))
        text, at = text + match[1], match.end()
    return LabelledSentence(text + line[at:], tuple(spans))


@cache
def _labels() -> list[dict[str, object]]:
    return [json.loads(line) for line in (HERE / "wikitext.jsonl").read_text().splitlines()]


def held_out_articles() -> frozenset[int]:
    """Return the numbers of the articles from which the labelled sentences come."""
    return frozenset(int(str(each["article"])) for each in _labels())


def wikitext(path: Path = WIKITEXT) -> list[LabelledSentence]:
    """Return the sentences of WikiText-2, found again by their hashes."""
    there = {_hash(sentence): sentence for sentence in sentences(path)}
    return [
        LabelledSentence(
            there[str(each["sha256"])],
            tuple((start, end, _KINDS[kind]) for start, end, kind in each["spans"]),  # type: ignore[attr-defined]
        )
        for each in _labels()
    ]


def _hash(sentence: str) -> str:
    return hashlib.sha256(sentence.encode()).hexdigest()[:16]


def sentences(path: Path) -> Iterator[str]:
    """Yield the sentences of the articles that were held out."""
    articles = plain_articles(path)
    for number in sorted(held_out_articles()):
        for paragraph in articles[number]:
            yield from re.split(r'(?<=[.!?]) (?=[A-Z"])', paragraph)


def plain_articles(path: Path) -> dict[int, list[str]]:
    """Return each article's paragraphs as people write them, without the headings."""
    articles = re.split(r"(?m)^ = [^=\n]+ = $", path.read_text("utf-8"))[1:]
    return {
        number: [plain(line) for line in article.split("\n") if _is_prose(line)]
        for number, article in enumerate(articles)
    }


def _is_prose(line: str) -> bool:
    return bool(line.strip()) and not line.strip().startswith("=")


def plain(line: str) -> str:
    """Return a line of WikiText without its spaces around signs."""
    text = re.sub(r" @([-,.])@ ", r"\1", line.strip())
    text = re.sub(r" ([,.;:?!%)\]])", r"\1", text)
    text = re.sub(r"([(\[$]) ", r"\1", text)
    text = re.sub(r" (['\u2019](s|t|re|ve|ll|d|m)\b)", r"\1", text)
    text = re.sub(r" n't\b", "n't", text)
    text = re.sub(r'" ([^"]*?) "', r'"\1"', text)
    return re.sub(r"s ' ", "s' ", text)
