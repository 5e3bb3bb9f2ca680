"""Search in conversations: by any part of what was said in them, in any script."""

from __future__ import annotations

import sqlite3

import msgspec

from edge.conversations.conversation import HEADINGS, Heading, heading_of

_TRIGRAM = 3  # a shorter text is not in the index, and is looked for row by row


class SearchHit(msgspec.Struct, frozen=True, kw_only=True):
    """Search hit: a conversation, the words around the place, and its turn.

    The turn is 0 where the title was found.
    """

    heading: Heading
    excerpt: str
    turn: int = 0


def search(db: sqlite3.Connection, text: str, limit: int) -> list[SearchHit]:
    """Return the conversations whose turns or title hold the text, any case, newest first."""
    text = text.strip()
    if not text:
        return []
    found = _indexed(db, text) if len(text) >= _TRIGRAM else _scanned(db, text)
    places = {str(row["id"]): row for row in reversed(found)}
    headings = [heading_of(row) for row in db.execute(f"{HEADINGS} ORDER BY c.changed_at DESC")]
    hits = [
        _hit(heading, places.get(heading.id))
        for heading in headings
        if heading.id in places or text.lower() in heading.title.lower()
    ]
    return hits[:limit]


def _hit(heading: Heading, place: sqlite3.Row | None) -> SearchHit:
    if place is None:
        return SearchHit(heading=heading, excerpt=heading.title)
    return SearchHit(heading=heading, excerpt=str(place["excerpt"]), turn=int(place["turn"]))


def _indexed(db: sqlite3.Connection, text: str) -> list[sqlite3.Row]:
    phrase = '"' + text.replace('"', '""') + '"'
    return db.execute(
        "SELECT t.conversation AS id, t.id AS turn, snippet(words, 0, '', '', '…', 24) AS excerpt "
        "FROM words JOIN turn t ON t.id = words.rowid WHERE words MATCH ? ORDER BY t.id DESC",
        (phrase,),
    ).fetchall()


def _scanned(db: sqlite3.Connection, text: str) -> list[sqlite3.Row]:
    return db.execute(
        "SELECT conversation AS id, id AS turn, "
        "substr(content, max(1, instr(lower(content), ?) - 20), 60) AS excerpt "
        "FROM turn WHERE instr(lower(content), ?) ORDER BY turn DESC",
        (text.lower(), text.lower()),
    ).fetchall()
