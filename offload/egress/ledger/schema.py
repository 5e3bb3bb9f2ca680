"""The ledger's file: SQLite in WAL mode, its tables, and how an older file becomes a newer one."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
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
