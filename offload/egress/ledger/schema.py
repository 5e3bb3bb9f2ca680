"""Ledger file: SQLite tables, their migrations, and the oldest lines removed to keep it small."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path

BUSY_S = 0.2  # how long to wait for another process that is writing

# One script for each version; a file of version n has run the first n of them.
MIGRATIONS = (
    """
    CREATE TABLE departures (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        key TEXT NOT NULL UNIQUE,
        request_id TEXT NOT NULL,
        left_at REAL NOT NULL,
        endpoint TEXT NOT NULL,
        why TEXT NOT NULL,
        privacy TEXT NOT NULL,
        num_bytes INTEGER NOT NULL,
        digest TEXT NOT NULL,
        found TEXT NOT NULL,
        content TEXT,
        state TEXT NOT NULL DEFAULT 'leaving',
        bytes_sent INTEGER,
        bytes_received INTEGER,
        num_tokens INTEGER NOT NULL DEFAULT 0,
        cost REAL NOT NULL DEFAULT 0,
        seconds REAL NOT NULL DEFAULT 0,
        failure TEXT
    );
    CREATE INDEX departures_by_time ON departures (left_at);
    CREATE INDEX departures_by_request ON departures (request_id);
    CREATE TABLE decisions (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        request_id TEXT NOT NULL,
        began_at REAL NOT NULL,
        privacy TEXT NOT NULL,
        inputs TEXT NOT NULL,
        propensity REAL NOT NULL,
        finish TEXT NOT NULL,
        content TEXT
    );
    CREATE INDEX decisions_by_request ON decisions (request_id);
    -- What was in departures that have made room; one row.
    CREATE TABLE gone (departures INTEGER, num_bytes INTEGER, tokens INTEGER, cost REAL);
    INSERT INTO gone VALUES (0, 0, 0, 0);
    """,
    "ALTER TABLE departures ADD COLUMN conversation TEXT NOT NULL DEFAULT ''",
)


def connect(path: Path) -> sqlite3.Connection:
    """Open the file, which only its owner may read, and bring it up to date.

    Raises OSError and sqlite3.Error; DatabaseError where it is no ledger.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    connection = sqlite3.connect(
        path, timeout=BUSY_S, isolation_level=None, check_same_thread=False
    )
    try:
        connection.execute("PRAGMA auto_vacuum=INCREMENTAL")  # before the first table
        connection.execute("PRAGMA journal_mode=WAL")
        # A power cut may cost the newest lines, a crash none; and no line waits for the disk.
        connection.execute("PRAGMA synchronous=NORMAL")
        # Copying the log into the file waits for the disk: upkeep does it, beside the answers.
        connection.execute("PRAGMA wal_autocheckpoint=0")
        _migrate(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def set_aside(path: Path) -> Path:
    """Move a damaged file and its log out of the way and return where it is now."""
    aside = path.with_name(f"{path.name}.damaged-{time.time_ns()}")
    path.replace(aside)
    for suffix in ("-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + suffix).replace(aside.with_name(aside.name + suffix))
    return aside


def is_damage(error: Exception) -> bool:
    """Whether the file itself is at fault, not the disk or another process."""
    if not isinstance(error, sqlite3.DatabaseError):
        return False
    kinds = (sqlite3.OperationalError, sqlite3.IntegrityError, sqlite3.ProgrammingError)
    if not isinstance(error, kinds):
        return True  # "file is not a database", "database disk image is malformed"
    # The tables of something else, or some of them only.
    other_shape = ("malformed", "no such table", "no such column", "already exists")
    return any(words in str(error) for words in other_shape)


def _migrate(connection: sqlite3.Connection) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version < 0:
        raise sqlite3.OperationalError(f"a malformed version, {version}")
    if version > len(MIGRATIONS):
        raise sqlite3.OperationalError(f"it is of version {version}, from a newer nearfar")
    if version == len(MIGRATIONS):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Another process may have done it while we waited.
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
            for statement in script.split(";\n"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version={number}")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


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
