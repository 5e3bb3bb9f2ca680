"""Answer writer: stores an answer while it is written, and ends one whose writer died."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence

import msgspec
import psutil

from edge.conversations.conversation import State
from offload.messages import Finish, Privacy, ToolCall


class AnswerWriter:
    """Answer writer: each piece is committed before `write` returns."""

    def __init__(self, db: sqlite3.Connection, turn: int) -> None:
        self._db = db
        self.turn = turn

    def write(self, text: str, *, source: str = "", replaces: bool = False) -> None:
        """Add a piece; `replaces` withdraws all that was written before it."""
        before = "''" if replaces else "content"
        self._db.execute(
            f"UPDATE turn SET content = {before} || ?, source = ? WHERE id = ?",
            (text, source, self.turn),
        )

    def classify(self, privacy: Privacy) -> None:
        """Set the privacy class of the answer, where it turns out to be another."""
        self._db.execute("UPDATE turn SET privacy = ? WHERE id = ?", (privacy.value, self.turn))

    def call(self, text: str, calls: Sequence[ToolCall]) -> None:
        """Note the tools that the answer calls, and what of its text is no call."""
        encoded = msgspec.json.encode(calls).decode()
        self._db.execute(
            "UPDATE turn SET content = ?, calls = ? WHERE id = ?", (text, encoded, self.turn)
        )

    def wait(self, name: str) -> None:
        """Note the outbox entry by which a better answer may come."""
        self._db.execute("UPDATE turn SET waiting = ? WHERE id = ?", (name, self.turn))

    def end(self, state: State, finish: Finish | None = None) -> None:
        """Note how the answer ended."""
        encoded = msgspec.json.encode(finish).decode() if finish is not None else ""
        self._db.execute(
            "UPDATE turn SET state = ?, finish = ? WHERE id = ?", (state, encoded, self.turn)
        )


def this_process() -> str:
    """Return this process's name as a writer."""
    return _process(os.getpid())


def settle(db: sqlite3.Connection) -> None:
    """Mark the answers whose writer has died; what they had written is kept."""
    rows = db.execute("SELECT id, writer FROM turn WHERE state = 'writing'").fetchall()
    for row in rows:
        if not _is_alive(row["writer"]):
            db.execute("UPDATE turn SET state = 'interrupted' WHERE id = ?", (row["id"],))


def _process(pid: int) -> str:
    """Return a name of a running process that no later one of the same pid has."""
    return f"{pid} {psutil.Process(pid).create_time():.2f}"


def _is_alive(writer: str) -> bool:
    try:
        return _process(int(writer.split(" ")[0])) == writer
    except (psutil.Error, ValueError):
        return False
