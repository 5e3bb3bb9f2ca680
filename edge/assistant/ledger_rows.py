"""Ledger rows: what left this device as the page lists it, found by words and filtered by kind."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from edge.assistant.language import chinese
from offload.egress.ledger.entries import LedgerEntry, State, Totals
from offload.egress.ledger.explain import left_line
from offload.egress.ledger.reading import open_book
from offload.reasons import sentence

_MOST = 300  # rows


class LedgerRow(msgspec.Struct, frozen=True, kw_only=True):
    """One text that left; `conversation` is empty where it was asked in none that still exists."""

    left_at: float
    endpoint: str
    num_bytes: int
    at_most: bool
    reason: str
    found: dict[str, int]
    state: State
    conversation: str
    title: str


class LedgerList(msgspec.Struct, frozen=True, kw_only=True):
    """The newest rows that were looked for, and the sums over all that ever left."""

    totals: Totals
    left: list[LedgerRow]


def listed(path: Path, titles: Mapping[str, str], words: str, kind: str) -> LedgerList:
    """Return what all the `words` are told of; `kind` is "replaced", "failed" or all.

    `titles` are those of the conversations. Raises SettingsError for a file that cannot be read.
    """
    with open_book(path) as book:
        totals, left = book.totals(), book.departures()
    wanted = words.lower().split()
    rows = [(_row(each, titles), each) for each in left if _is_of(each, kind)]
    found = [row for row, each in rows if _is_about(row, each, wanted)]
    return LedgerList(totals=totals, left=found[:_MOST])


def _is_of(left: LedgerEntry, kind: str) -> bool:
    if kind == "replaced":
        return any(name.endswith(" redact") for name in left.departure.found)
    return kind != "failed" or left.back.state == "failed"


def _is_about(row: LedgerRow, left: LedgerEntry, words: list[str]) -> bool:
    told = f"{left_line(left)} {row.title} {chinese(row.reason) or ''}".lower()
    return all(word in told for word in words)


def _row(left: LedgerEntry, titles: Mapping[str, str]) -> LedgerRow:
    departure = left.departure
    known = departure.conversation if departure.conversation in titles else ""
    return LedgerRow(
        left_at=departure.left_at,
        endpoint=departure.endpoint,
        num_bytes=left.num_bytes,
        at_most=left.back.bytes_sent is None,
        reason=sentence(departure.why),
        found=departure.found,
        state=left.back.state,
        conversation=known,
        title=titles.get(known, ""),
    )
