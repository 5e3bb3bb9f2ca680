"""Passages: a document cut into pieces that can be searched, asked about and quoted.

A cut falls before a heading or behind an empty line where there is one, else between lines, and
within a line only where that alone is too long. No passage reaches over a page.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from offload.documents.document import Document, Page, Passage

MAX_CHARS = 1200  # some 300 tokens: a few of them fit any context, and each is about one thing


class _Span(NamedTuple):
    """A line, or a part of one that is too long; `start` and `end` are places in the page."""

    start: int
    end: int
    line: int


def passages(
    document: Document, *, max_chars: int = MAX_CHARS, overlap: int = 0
) -> Iterator[Passage]:
    """Yield the passages of a document, none longer than `max_chars`, in its order.

    Each repeats up to `overlap` characters of the one before, whole lines of it, so that what
    stands at a cut is whole in one of them; at most a third of `max_chars`.
    """
    assert max_chars >= 16, "a passage holds a few words at least"
    for page in document.pages:
        yield from _of_page(document.name, page, max_chars, min(overlap, max_chars // 3))


def _of_page(name: str, page: Page, max_chars: int, overlap: int) -> Iterator[Passage]:
    spans = list(_spans(page.text, max_chars))
    at = 0
    while at < len(spans):
        end = _end(page.text, spans, at, max_chars)
        text = page.text[spans[at].start : spans[end - 1].end]
        if text.strip():
            # The lines of the text, without the empty ones at its ends.
            first = spans[at].line + _num_empty(text)
            last = first + text.strip("\n").rstrip().count("\n")
            yield Passage(
                name=name,
                page=page.number,
                first_line=first,
                last_line=last,
                text=text.strip("\n").rstrip(),
            )
        at = end if end == len(spans) else _back(spans, at, end, overlap)


def _num_empty(text: str) -> int:
    return len(text) - len(text.lstrip("\n"))


def _spans(text: str, max_chars: int) -> Iterator[_Span]:
    start, line = 0, 0
    while start < len(text):
        line += 1
        newline = text.find("\n", start)
        end = len(text) if newline < 0 else newline + 1
        while end - start > max_chars:
            cut = _within(text, start, start + max_chars)
            yield _Span(start, cut, line)
            start = cut
        if end > start:
            yield _Span(start, end, line)
        start = end


def _within(text: str, start: int, end: int) -> int:
    """Return where to cut a long line: behind a sentence, else behind a word, in its last half."""
    half = start + (end - start) // 2
    for mark in (". ", "。", " "):
        found = text.rfind(mark, half, end)
        if found >= 0:
            return found + len(mark)
    return end


def _end(text: str, spans: Sequence[_Span], at: int, max_chars: int) -> int:
    """Return the number behind the last span of the passage that begins at `at`."""
    limit = spans[at].start + max_chars
    end = at + 1
    while end < len(spans) and spans[end].end <= limit:
        end += 1
    if end == len(spans):
        return end
    half = spans[at].start + max_chars // 2
    for cut in range(end, at + 1, -1):
        if spans[cut - 1].end < half:
            break
        before, behind = spans[cut - 1], spans[cut]
        is_empty = not text[before.start : before.end].strip()
        if is_empty or text.startswith("#", behind.start):
            return cut
    return end


def _back(spans: Sequence[_Span], at: int, end: int, overlap: int) -> int:
    """Return where the next passage begins: so far before the end of this one."""
    begins = end
    while begins - 1 > at and spans[end - 1].end - spans[begins - 1].start <= overlap:
        begins -= 1
    return begins
