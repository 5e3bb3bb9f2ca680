"""Leaving text: a preview of a departure as lines for a terminal, what was replaced marked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from offload.egress.preview import LeavingTurn, Preview
from offload.kind_words import found_in_words

Style = Literal["", "dim", "kept"]
Line = Sequence[tuple[str, Style]]  # stretches of text and how each is drawn

_MOST_LINES = 16  # of a text that is not asked to be shown whole
_WHO = {"user": "you", "assistant": "nearfar", "system": "system prompt", "tool": "tool"}


def leaving_lines(preview: Preview, *, whole: bool = False) -> Iterator[Line]:
    """Yield the text that would leave, what stands for what, what stays, and to whom it goes."""
    *earlier, asked = preview.turns
    yield [(_heading(preview), "dim")]
    if whole:
        for turn in earlier:
            yield [(f"{_WHO[turn.role]}:", "dim")]
            yield from _lines(turn)
    elif earlier:
        size = sum(len(turn.text.encode()) for turn in earlier)
        turns = "an earlier turn" if len(earlier) == 1 else f"{len(earlier)} earlier turns"
        yield [(f"with {turns} ({size:,} bytes)", "dim")]
    lines = list(_lines(asked))
    shown = lines if whole else lines[:_MOST_LINES]
    yield from shown
    if len(lines) > len(shown):
        yield [(f"... and {len(lines) - len(shown)} more lines", "dim")]
    yield from _facts(preview)


def _heading(preview: Preview) -> str:
    to = " at ".join(part for part in (preview.model, preview.endpoint) if part)
    return f"to {to or 'the far model'} would go, {preview.num_bytes:,} bytes in all:"


def _lines(turn: LeavingTurn) -> Iterator[Line]:
    line: list[tuple[str, Style]] = [("  | ", "dim")]
    for piece in turn.pieces:
        first, *rest = piece.text.split("\n")
        line.append((first, "kept" if piece.original else ""))
        for each in rest:
            yield line
            line = [("  | ", "dim"), (each, "")]
    yield line


def _facts(preview: Preview) -> Iterator[Line]:
    if shown := sum(turn.num_pictures for turn in preview.turns):
        pictures = "a picture goes" if shown == 1 else f"{shown} pictures go"
        yield [(f"{pictures} with it, and nothing in a picture is replaced", "dim")]
    if preview.found:
        yield [(found_in_words(preview.found), "dim")]
    for placeholder, original in preview.replaced.items():
        yield [("  ", ""), (placeholder, "kept"), (f" stands for {original}", "dim")]
    if preview.blocked:
        yield [("your rules keep this text here, whatever you answer", "dim")]
    if preview.left_out:
        stay = "turn of this conversation stays" if preview.left_out == 1 else "turns stay"
        yield [(f"{preview.left_out} {stay} here", "dim")]
