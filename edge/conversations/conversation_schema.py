"""Database schema of the conversations, and its migrations."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from backbone.errors import cause
from offload.config.obstacles import obstacle
from offload.errors import SettingsError

# A turn's text is searched by trigrams, so that a part of a word, and Chinese, is found too. A turn
# enters the index when it is whole: not at each of its tokens.
_FIRST = """
CREATE TABLE conversation (
    id TEXT PRIMARY KEY,
    title TEXT NOT NULL DEFAULT '',
    system TEXT NOT NULL DEFAULT '',
    created_at REAL NOT NULL,
    changed_at REAL NOT NULL
) STRICT;
CREATE INDEX conversation_by_change ON conversation (changed_at DESC);
CREATE TABLE turn (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    conversation TEXT NOT NULL REFERENCES conversation (id) ON DELETE CASCADE,
    role TEXT NOT NULL,
    content TEXT NOT NULL,
    state TEXT NOT NULL,
    writer TEXT NOT NULL DEFAULT '',
    source TEXT NOT NULL DEFAULT '',
    finish TEXT NOT NULL DEFAULT '',
    created_at REAL NOT NULL
) STRICT;
CREATE INDEX turn_by_conversation ON turn (conversation, id);
CREATE VIRTUAL TABLE words USING fts5 (
    content, content='turn', content_rowid='id', tokenize='trigram'
);
CREATE TRIGGER turn_whole AFTER INSERT ON turn WHEN new.state <> 'writing' BEGIN
    INSERT INTO words (rowid, content) VALUES (new.id, new.content);
END;
CREATE TRIGGER turn_settled AFTER UPDATE OF state ON turn
WHEN old.state = 'writing' AND new.state <> 'writing' BEGIN
    INSERT INTO words (rowid, content) VALUES (new.id, new.content);
END;
CREATE TRIGGER turn_gone AFTER DELETE ON turn WHEN old.state <> 'writing' BEGIN
    INSERT INTO words (words, rowid, content) VALUES ('delete', old.id, old.content);
END;
"""


def _first(connection: sqlite3.Connection) -> None:
    connection.executescript(f"BEGIN IMMEDIATE; {_FIRST}")


def _better(connection: sqlite3.Connection) -> None:
    """A near answer may wait for a better one (by its id in the outbox), and get it beside it."""
    connection.execute("BEGIN IMMEDIATE")
    for column in ("waiting", "better"):
        connection.execute(f"ALTER TABLE turn ADD COLUMN {column} TEXT NOT NULL DEFAULT ''")


def _privacy(connection: sqlite3.Connection) -> None:
    """Each turn has its class. Of older ones the answers' routes tell it: the gate said there that
    a text was local_only, or its person that it may not leave. Where no answer tells, it stays, and
    so does what was answered near from turns that stay.
    """
    connection.execute("BEGIN IMMEDIATE")
    for table in ("turn", "conversation"):
        connection.execute(f"ALTER TABLE {table} ADD COLUMN privacy TEXT NOT NULL DEFAULT 'ask'")
    rows = connection.execute(
        "SELECT id, conversation, role, finish FROM turn ORDER BY conversation, id"
    ).fetchall()
    connection.executemany("UPDATE turn SET privacy = 'local_only' WHERE id = ?", _staying(rows))
    connection.execute(
        "UPDATE conversation SET privacy = 'local_only' WHERE id IN "
        "(SELECT conversation FROM turn WHERE privacy = 'local_only')"
    )


def _staying(rows: Sequence[tuple[int, str, str, str]]) -> Iterator[tuple[int]]:
    """Yield the ids of the turns that stay; `rows` are id, conversation, role and finish."""
    for _, said in groupby(rows, key=lambda row: row[1]):
        turns: list[int] = []
        tainted = False
        for turn, _, role, finish in said:
            if role != "assistant":
                turns.append(turn)
                continue
            route = json.loads(finish).get("route") or {} if finish else {}
            if route.get("reason") in _MAY_NOT or not route:
                tainted = True
                yield from ((each,) for each in (*turns, turn))
            elif tainted and route.get("served_by") == "edge":
                yield (turn,)
            turns = []
        yield from ((each,) for each in turns)


def _versions(connection: sqlite3.Connection) -> None:
    """Turns are a tree of which one path is shown (versions.py); what is deleted can come back."""
    connection.execute("BEGIN IMMEDIATE")
    for table, column in (("turn", "parent"), ("conversation", "tip")):
        connection.execute(f"ALTER TABLE {table} ADD COLUMN {column} INTEGER NOT NULL DEFAULT 0")
    connection.execute("ALTER TABLE conversation ADD COLUMN deleted_at REAL NOT NULL DEFAULT 0")
    connection.execute(
        "UPDATE turn SET parent = coalesce((SELECT max(other.id) FROM turn other "
        "WHERE other.conversation = turn.conversation AND other.id < turn.id), 0)"
    )
    connection.execute(
        "UPDATE conversation SET tip = "
        "coalesce((SELECT max(id) FROM turn WHERE conversation = conversation.id), 0)"
    )
    connection.execute(
        "CREATE TRIGGER turn_shown AFTER INSERT ON turn BEGIN "
        "UPDATE conversation SET tip = new.id WHERE id = new.conversation; END"
    )
    connection.execute(
        "CREATE TRIGGER turn_resumed AFTER UPDATE OF state ON turn "
        "WHEN old.state <> 'writing' AND new.state = 'writing' BEGIN "
        "INSERT INTO words (words, rowid, content) VALUES ('delete', old.id, old.content); END"
    )


def _pinned(connection: sqlite3.Connection) -> None:
    """A conversation may be pinned: it stands before all others."""
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("ALTER TABLE conversation ADD COLUMN pinned INTEGER NOT NULL DEFAULT 0")


def _documents_and_calls(connection: sqlite3.Connection) -> None:
    """Documents stay attached to a conversation (a list of paths); an answer may call tools, and a
    turn of role tool says which call it answers (both lists of calls).
    """
    connection.execute("BEGIN IMMEDIATE")
    for table, column in (("conversation", "documents"), ("turn", "calls")):
        connection.execute(f"ALTER TABLE {table} ADD COLUMN {column} TEXT NOT NULL DEFAULT '[]'")


def _pictures(connection: sqlite3.Connection) -> None:
    """A question may come with pictures, which go with it."""
    connection.execute("BEGIN IMMEDIATE")
    connection.execute(
        "CREATE TABLE picture (id INTEGER PRIMARY KEY AUTOINCREMENT, turn INTEGER NOT NULL "
        "REFERENCES turn (id) ON DELETE CASCADE, media_type TEXT NOT NULL, data BLOB NOT NULL"
        ") STRICT"
    )
    connection.execute("CREATE INDEX picture_by_turn ON picture (turn, id)")


_MAY_NOT = ("local_only", "not_allowed", "withheld")

MIGRATIONS: tuple[Callable[[sqlite3.Connection], None], ...] = (
    _first,
    _better,
    _privacy,
    _versions,
    _pinned,
    _documents_and_calls,
    _pictures,
)


class _Connection(sqlite3.Connection):
    """Connection whose errors name what is in the way of its file."""

    path: Path | None = None

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        """Execute a statement. Raises SettingsError where the file takes nothing any more."""
        try:
            return super().execute(sql, parameters)
        except sqlite3.OperationalError as error:
            if self.path is None:
                raise
            raise SettingsError(
                f"the conversations in {self.path} cannot be written: {_reason(self.path, error)}"
            ) from None


def connect(path: Path | None) -> sqlite3.Connection:
    """Open the database at today's schema; it is made, private, where there is none.

    None keeps it in memory only.

    WAL keeps a committed token through the death of the process, and lets two processes read
    and write; secure_delete overwrites what is deleted. Raises SettingsError.
    """
    try:
        if path is not None and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)
        connection = sqlite3.connect(
            path or ":memory:", isolation_level=None, timeout=10, factory=_Connection
        )
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("PRAGMA secure_delete=ON")
        _migrate(connection, path)
    except (sqlite3.DatabaseError, OSError) as error:
        raise SettingsError(
            f"the conversations in {path} cannot be opened: {_reason(path, error)}"
        ) from None
    connection.path = path
    connection.row_factory = sqlite3.Row
    return connection


def _reason(path: Path | None, error: Exception) -> str:
    if path is None or not isinstance(error, (sqlite3.OperationalError, OSError)):
        return f"{cause(error)}; move the file away to begin anew"  # it is damaged
    if "locked" in str(error):
        return f"{cause(error)}; end the program that holds it, and try again"
    return obstacle(path, error)


def _migrate(connection: sqlite3.Connection, path: Path | None) -> None:
    version = _version(connection)
    if version < 0:
        raise SettingsError(f"{path} is damaged (version {version}); move it away to begin anew")
    if version > len(MIGRATIONS):
        raise SettingsError(f"{path} was written by a newer nearfar; update nearfar to read it")
    while _version(connection) < len(MIGRATIONS):
        _step(connection)


def _step(connection: sqlite3.Connection) -> None:
    """Take one step up, whole or not at all; another process may have been quicker."""
    version = _version(connection)
    try:
        MIGRATIONS[version](connection)
        connection.execute(f"PRAGMA user_version={version + 1}")
        connection.execute("COMMIT")
    except sqlite3.OperationalError:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        if _version(connection) <= version:
            raise


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])
