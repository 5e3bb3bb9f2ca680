"""Conversations, kept as they happen: every token is on its way to disk before the next one."""

from __future__ import annotations

import os
import sqlite3
import time
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import msgspec
import psutil

from edge.desk.conversation_schema import connect
from offload.errors import RequestError
from offload.messages import Finish, Message, Role

State = Literal["whole", "writing", "stopped", "failed", "interrupted"]
TITLE_LEN = 60
_TRIGRAM = 3  # a shorter text is not in the index, and is looked for row by row


class Heading(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation as a list shows it; times are seconds since the epoch."""

    id: str
    title: str
    created_at: float
    changed_at: float
    num_turns: int = 0


class Beside(msgspec.Struct, frozen=True, kw_only=True):
    """A better answer that came later, beside the first."""

    content: str
    finish: Finish


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """One turn; `finish` is how an answer ended, with its route and usage.

    `waiting` is its id in the outbox while the cloud is to be asked again.
    """

    id: int
    role: Role
    content: str
    state: State
    source: str = ""
    created_at: float = 0.0
    finish: Finish | None = None
    waiting: str = ""
    better: Beside | None = None


class Conversation(msgspec.Struct, frozen=True, kw_only=True):
    """A whole conversation."""

    heading: Heading
    system: str = ""
    turns: tuple[Turn, ...] = ()

    def messages(self) -> tuple[Message, ...]:
        """Return what a model should read: answers that failed before a word are left out."""
        system = [Message(role="system", content=self.system)] if self.system else []
        said = [Message(role=turn.role, content=turn.content) for turn in self.turns]
        return (*system, *(message for message in said if message.content.strip()))


class Hit(msgspec.Struct, frozen=True, kw_only=True):
    """One conversation that a search found, and the words around the place."""

    heading: Heading
    excerpt: str


class Conversations:
    """The conversations of one person, in one SQLite file; several processes may share it.

    Without a path they live as long as the process.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._db = connect(path)
        self._me = _process(os.getpid())
        self._settle()

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def begin(self, *, system: str = "", title: str = "") -> str:
        """Start a conversation and return its id, which is also its session in the runtime."""
        made, now = uuid.uuid4().hex, time.time()
        self._db.execute(
            "INSERT INTO conversation (id, title, system, created_at, changed_at) "
            "VALUES (?, ?, ?, ?, ?)",
            (made, title, system, now, now),
        )
        return made

    def headings(self, limit: int = 200) -> list[Heading]:
        """Return the conversations, the last changed first."""
        rows = self._db.execute(f"{_HEADINGS} ORDER BY c.changed_at DESC LIMIT ?", (limit,))
        return [_heading(row) for row in rows]

    def find(self, name: str) -> str:
        """Return the full id of an id or of its beginning. Raises RequestError."""
        escaped = name.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        rows = self._db.execute(
            "SELECT id FROM conversation WHERE id LIKE ? ESCAPE '\\' LIMIT 2", (f"{escaped}%",)
        ).fetchall()
        if len(rows) == 1 and name:
            return str(rows[0]["id"])
        told = "is the beginning of several" if rows else "is the id of none"
        raise RequestError(
            f"{name!r} {told}; `nearfar conversations list` shows them with their ids"
        )

    def latest(self) -> str:
        """Return the id of the conversation last changed. Raises RequestError without any."""
        headings = self.headings(limit=1)
        if not headings:
            raise RequestError("there is no conversation yet; `nearfar chat` begins one")
        return headings[0].id

    def read(self, conversation: str) -> Conversation:
        """Return a whole conversation. Raises RequestError for an unknown id."""
        row = self._db.execute(f"{_HEADINGS} WHERE c.id = ?", (conversation,)).fetchone()
        if row is None:
            raise RequestError(f"there is no conversation {conversation!r}; it may be deleted")
        turns = self._db.execute(
            "SELECT * FROM turn WHERE conversation = ? ORDER BY id", (conversation,)
        )
        return Conversation(
            heading=_heading(row), system=row["system"], turns=tuple(_turn(each) for each in turns)
        )

    def ask(self, conversation: str, text: str) -> int:
        """Add a person's turn; the first one gives an unnamed conversation its title."""
        self._db.execute(
            "UPDATE conversation SET title = ? WHERE id = ? AND title = ''",
            (_title(text), conversation),
        )
        return self._add(conversation, "user", text, "whole")

    def answer(self, conversation: str) -> Writing:
        """Begin an answer, to be written piece by piece."""
        return Writing(self._db, self._add(conversation, "assistant", "", "writing"))

    def awaits(self, name: str) -> bool:
        """Return whether a turn waits for a better answer by this name of the outbox."""
        row = self._db.execute("SELECT 1 FROM turn WHERE waiting = ?", (name,)).fetchone()
        return row is not None

    def better(self, name: str, beside: Beside) -> bool:
        """Keep a better answer beside the first; False where that is gone by now."""
        told = msgspec.json.encode(beside).decode()
        kept = self._db.execute(
            "UPDATE turn SET better = ?, waiting = '' WHERE waiting = ?", (told, name)
        )
        return kept.rowcount > 0

    def undo(self, conversation: str) -> str | None:
        """Take back the last question and its answer; return the question, None without one."""
        row = self._last_question(conversation)
        if row is None:
            return None
        self._remove("conversation = ? AND id >= ?", (conversation, row["id"]))
        return str(row["content"])

    def unanswer(self, conversation: str) -> str | None:
        """Take back the last answer only; return the question that stands, None without one."""
        row = self._last_question(conversation)
        if row is None:
            return None
        self._remove("conversation = ? AND id > ?", (conversation, row["id"]))
        return str(row["content"])

    def rename(self, conversation: str, title: str) -> None:
        """Give a conversation another title; an empty one is refused with RequestError."""
        if not title.strip():
            raise RequestError("the title is empty; write one")
        self._db.execute(
            "UPDATE conversation SET title = ? WHERE id = ?", (title.strip(), conversation)
        )

    def instruct(self, conversation: str, system: str) -> None:
        """Set the system prompt of a conversation; an empty one takes it away."""
        self._db.execute("UPDATE conversation SET system = ? WHERE id = ?", (system, conversation))

    def delete(self, conversation: str) -> None:
        """Delete a conversation: its text is overwritten in the file, its log and its index."""
        self._remove("conversation = ?", (conversation,))
        self._db.execute("DELETE FROM conversation WHERE id = ?", (conversation,))
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def questions(self, limit: int = 500) -> list[str]:
        """Return what was asked, the newest first: the history of the arrow keys."""
        rows = self._db.execute(
            "SELECT content FROM turn WHERE role = 'user' ORDER BY id DESC LIMIT ?", (limit,)
        )
        return [str(row["content"]) for row in rows]

    def search(self, text: str, limit: int = 50) -> list[Hit]:
        """Return the conversations whose turns or title hold the text, any case, newest first."""
        text = text.strip()
        if not text:
            return []
        found = self._indexed(text) if len(text) >= _TRIGRAM else self._scanned(text)
        excerpts = dict(reversed([(str(row["id"]), str(row["excerpt"])) for row in found]))
        headings = {heading.id: heading for heading in self.headings(limit=100_000)}
        hits = [
            Hit(heading=heading, excerpt=excerpts.get(key, heading.title))
            for key, heading in headings.items()
            if key in excerpts or text.lower() in heading.title.lower()
        ]
        return hits[:limit]

    def _indexed(self, text: str) -> Iterable[sqlite3.Row]:
        phrase = '"' + text.replace('"', '""') + '"'
        return self._db.execute(
            "SELECT t.conversation AS id, snippet(words, 0, '', '', '…', 24) AS excerpt "
            "FROM words JOIN turn t ON t.id = words.rowid WHERE words MATCH ? ORDER BY t.id DESC",
            (phrase,),
        ).fetchall()

    def _scanned(self, text: str) -> Iterable[sqlite3.Row]:
        return self._db.execute(
            "SELECT conversation AS id, substr(content, max(1, instr(lower(content), ?) - 20), 60) "
            "AS excerpt FROM turn WHERE instr(lower(content), ?) ORDER BY id DESC",
            (text.lower(), text.lower()),
        ).fetchall()

    def _add(self, conversation: str, role: Role, content: str, state: State) -> int:
        now = time.time()
        touched = self._db.execute(
            "UPDATE conversation SET changed_at = ? WHERE id = ?", (now, conversation)
        )
        if not touched.rowcount:
            raise RequestError(f"there is no conversation {conversation!r}; it may be deleted")
        made = self._db.execute(
            "INSERT INTO turn (conversation, role, content, state, writer, created_at) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (conversation, role, content, state, self._me, now),
        )
        assert made.lastrowid is not None, "an inserted row has an id"
        return made.lastrowid

    def _remove(self, where: str, values: tuple[Any, ...]) -> None:
        """Delete turns and rewrite the index: a deleted entry would else linger in its segments."""
        removed = self._db.execute(f"DELETE FROM turn WHERE {where}", values)
        if removed.rowcount:
            self._db.execute("INSERT INTO words (words) VALUES ('optimize')")

    def _last_question(self, conversation: str) -> sqlite3.Row | None:
        row: sqlite3.Row | None = self._db.execute(
            "SELECT id, content FROM turn WHERE conversation = ? AND role = 'user' "
            "ORDER BY id DESC LIMIT 1",
            (conversation,),
        ).fetchone()
        return row

    def _settle(self) -> None:
        """Mark the answers whose writer has died; what they had written is kept."""
        rows = self._db.execute("SELECT id, writer FROM turn WHERE state = 'writing'").fetchall()
        for row in rows:
            if not _is_alive(row["writer"]):
                self._db.execute("UPDATE turn SET state = 'interrupted' WHERE id = ?", (row["id"],))


class Writing:
    """An answer while it is written; each piece is committed before `write` returns."""

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

    def wait(self, name: str) -> None:
        """Say by which name of the outbox a better answer may come."""
        self._db.execute("UPDATE turn SET waiting = ? WHERE id = ?", (name, self.turn))

    def end(self, state: State, finish: Finish | None = None) -> None:
        """Say how the answer ended."""
        told = msgspec.json.encode(finish).decode() if finish is not None else ""
        self._db.execute(
            "UPDATE turn SET state = ?, finish = ? WHERE id = ?", (state, told, self.turn)
        )


_HEADINGS = (
    "SELECT c.*, (SELECT count(*) FROM turn t WHERE t.conversation = c.id) AS num_turns "
    "FROM conversation c"
)


def _heading(row: sqlite3.Row) -> Heading:
    names = ("id", "title", "created_at", "changed_at", "num_turns")
    return Heading(**{name: row[name] for name in names})


def _turn(row: sqlite3.Row) -> Turn:
    finish = msgspec.json.decode(row["finish"], type=Finish) if row["finish"] else None
    better = msgspec.json.decode(row["better"], type=Beside) if row["better"] else None
    names = ("id", "role", "content", "state", "source", "created_at", "waiting")
    return Turn(**{name: row[name] for name in names}, finish=finish, better=better)


def _title(text: str) -> str:
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return line if len(line) <= TITLE_LEN else f"{line[: TITLE_LEN - 1].rstrip()}…"


def _process(pid: int) -> str:
    """Return a name of a running process that no later one of the same pid has."""
    return f"{pid} {psutil.Process(pid).create_time():.2f}"


def _is_alive(writer: str) -> bool:
    try:
        return _process(int(writer.split(" ")[0])) == writer
    except (psutil.Error, ValueError):
        return False
