"""Keeping the ledger small: the oldest lines make room, and only their sums stay."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path

from offload.egress.ledger.schema import connect

_ROUNDS = 16  # each takes a quarter of the lines that may go


def start_of_day(now: float) -> float:
    """Return when the day of this moment began, here, in seconds since the epoch."""
    day = time.localtime(now)
    return time.mktime((day.tm_year, day.tm_mon, day.tm_mday, 0, 0, 0, 0, 0, -1))


def tidy(path: Path, max_bytes: int, *, now: float) -> None:
    """Bring the file below `max_bytes` and its log into it. Raises OSError and sqlite3.Error.

    What left today stays, since today's budget is reckoned from it; its texts may go.
    """
    with closing(connect(path)) as connection:
        for _ in range(_ROUNDS):
            if _size_bytes(connection) <= max_bytes:
                break
            _make_room(connection, start_of_day(now))
            connection.executescript("PRAGMA incremental_vacuum")  # execute() frees one page only
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()


def _size_bytes(connection: sqlite3.Connection) -> int:
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    (free,) = connection.execute("PRAGMA freelist_count").fetchone()
    (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
    return int((pages - free) * page_bytes)


def _make_room(connection: sqlite3.Connection, today: float) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        if not _forget_departures(connection, today):
            connection.execute("UPDATE departures SET content = NULL WHERE content IS NOT NULL")
        first, last = connection.execute(
            "SELECT ifnull(min(number), 0), ifnull(max(number), 0) FROM decisions"
        ).fetchone()
        until = first + (last - first) // 4
        connection.execute("DELETE FROM decisions WHERE number <= ?", (until,))
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def _forget_departures(connection: sqlite3.Connection, today: float) -> int:
    """Forget a quarter of what left before today and add it to the sums; return how many lines."""
    (first, last) = connection.execute(
        "SELECT ifnull(min(number), 0), ifnull(max(number), 0) FROM departures WHERE left_at < ?",
        (today,),
    ).fetchone()
    which = (first + (last - first) // 4, today)
    connection.execute(
        """UPDATE gone SET (departures, num_bytes, tokens, cost) = (
            SELECT gone.departures + count(*),
                gone.num_bytes + ifnull(sum(ifnull(d.bytes_sent, d.num_bytes)), 0),
                gone.tokens + ifnull(sum(d.num_tokens), 0),
                gone.cost + ifnull(sum(d.cost), 0)
            FROM departures AS d WHERE d.number <= ? AND d.left_at < ?)""",
        which,
    )
    forgotten = connection.execute(
        "DELETE FROM departures WHERE number <= ? AND left_at < ?", which
    )
    return forgotten.rowcount
