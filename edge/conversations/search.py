"""Search in conversations: by any part of what was said in them, in any script."""

from __future__ import annotations

import sqlite3

import msgspec

from edge.conversations.conversation import HEADINGS, Heading, heading_of

_TRIGRAM = 3  # a shorter text is not in the index, and is looked for row by row


class SearchHit(msgspec.Struct, frozen=True, kw_only=True):
    """One conversation that a search found, and the words around the place."""

    heading: Heading
    excerpt: str


def search(db: sqlite3.Connection, text: str, limit: int) -> list[SearchHit]:
    """Return the conversations whose turns or title hold the text, any case, newest first."""
    text = text.strip()
    if not text:
        return []
    found = _indexed(db, text) if len(text) >= _TRIGRAM else _scanned(db, text)
    excerpts = dict(reversed([(str(row["id"]), str(row["excerpt"])) for row in found]))
    headings = [heading_of(row) for row in db.execute(f"{HEADINGS} ORDER BY c.changed_at DESC")]
    hits = [
        SearchHit(heading=heading, excerpt=excerpts.get(heading.id, heading.title))
        for heading in headings
        if heading.id in excerpts or text.lower() in heading.title.lower()
    ]
    return hits[:limit]


def _indexed(db: sqlite3.Connection, text: str) -> list[sqlite3.Row]:
    phrase = '"' + text.replace('"', '""') + '"'
    return db.execute(
        "SELECT t.conversation AS id, snippet(words, 0, '', '', '…', 24) AS excerpt "
        "FROM words JOIN turn t ON t.id = words.rowid WHERE words MATCH ? ORDER BY t.id DESC",
        (phrase,),
    ).fetchall()


def _scanned(db: sqlite3.Connection, text: str) -> list[sqlite3.Row]:
    return db.execute(
        "SELECT conversation AS id, substr(content, max(1, instr(lower(content), ?) - 20), 60) "
        "AS excerpt FROM turn WHERE instr(lower(content), ?) ORDER BY id DESC",
        (text.lower(), text.lower()),
    ).fetchall()
