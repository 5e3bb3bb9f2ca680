"""Conversation store (SQLite): every token is on its way to disk before the next one."""

from __future__ import annotations

import json
import sqlite3
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from edge.conversations.answer_writer import AnswerWriter, settle, this_process
from edge.conversations.attachments import apart
from edge.conversations.conversation import (
    HEADINGS,
    Conversation,
    Heading,
    LaterAnswer,
    State,
    conversation_of,
    heading_of,
)
from edge.conversations.conversation_schema import connect
from edge.conversations.search import SearchHit, search
from edge.conversations.trash import Trash
from edge.conversations.versions import Versions
from offload.errors import RequestError
from offload.messages import Picture, Privacy, Role, ToolCall

TITLE_LEN = 60


class Conversations:
    """The conversations of one person, in one SQLite file; several processes may share it.

    Without a path they live as long as the process.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._db = connect(path)
        self._me = this_process()
        settle(self._db)
        self.versions = Versions(self._db)
        self.trash = Trash(self._db)

    @property
    def database(self) -> sqlite3.Connection:
        """The open SQLite file, for what SQLite itself can say or limit."""
        return self._db

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def begin(self, *, system: str = "", title: str = "", privacy: Privacy = Privacy.ASK) -> str:
        """Start a conversation and return its id, which is also its session in the runtime.

        `privacy` is the class of its system prompt.
        """
        made, now = uuid.uuid4().hex, time.time()
        self._db.execute(
            "INSERT INTO conversation (id, title, system, created_at, changed_at, privacy) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (made, title, system, now, now, privacy.value),
        )
        return made

    def headings(self, limit: int = 200) -> list[Heading]:
        """Return the conversations, those that are pinned and then the last changed first."""
        rows = self._db.execute(
            f"{HEADINGS} ORDER BY c.pinned DESC, c.changed_at DESC LIMIT ?", (limit,)
        )
        return [heading_of(row) for row in rows]

    def every(self) -> Iterator[Conversation]:
        """Yield every conversation, whole, the oldest first."""
        rows = self._db.execute(
            "SELECT id FROM conversation WHERE deleted_at = 0 ORDER BY created_at"
        ).fetchall()
        for row in rows:
            yield self.read(str(row["id"]))

    def find(self, name: str) -> str:
        """Return the full id of an id or of its beginning. Raises RequestError."""
        escaped = name.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        rows = self._db.execute(
            "SELECT id FROM conversation WHERE deleted_at = 0 AND id LIKE ? ESCAPE '\\' LIMIT 2",
            (f"{escaped}%",),
        ).fetchall()
        if len(rows) == 1 and name:
            return str(rows[0]["id"])
        several = "several conversations have ids that begin"
        fault = several if rows else "no conversation has an id that begins"
        raise RequestError(f"{fault} with {name!r}; `nearfar conversations list` shows them")

    def latest(self) -> str:
        """Return the id of the conversation last changed. Raises RequestError without any."""
        row = self._db.execute(f"{HEADINGS} ORDER BY c.changed_at DESC LIMIT 1").fetchone()
        if row is None:
            raise RequestError("there is no conversation yet; `nearfar chat` begins one")
        return str(row["id"])

    def read(self, conversation: str, *, pictures: bool = True) -> Conversation:
        """Return a whole conversation, of its pictures only the names unless they are wanted.

        Raises RequestError for an unknown id.
        """
        row = self._db.execute(f"{HEADINGS} WHERE c.id = ?", (conversation,)).fetchone()
        if row is None:
            raise RequestError(f"there is no conversation {conversation!r}; it may be deleted")
        turns = self._db.execute(
            "SELECT * FROM turn WHERE conversation = ? ORDER BY id", (conversation,)
        ).fetchall()
        data = "p.data" if pictures else "x''"
        shown = self._db.execute(
            f"SELECT p.id, p.turn, p.media_type, {data} AS data FROM picture p "
            "JOIN turn t ON t.id = p.turn WHERE t.conversation = ? ORDER BY p.id",
            (conversation,),
        )
        return conversation_of(row, turns, shown)

    def picture(self, conversation: str, number: int) -> Picture:
        """Return one picture of a conversation. Raises RequestError where it has none such."""
        row = self._db.execute(
            "SELECT p.media_type, p.data FROM picture p JOIN turn t ON t.id = p.turn "
            "WHERE t.conversation = ? AND p.id = ?",
            (conversation, number),
        ).fetchone()
        if row is None:
            raise RequestError("there is no such picture; it may be deleted")
        return Picture(media_type=row["media_type"], data=row["data"])

    def ask(
        self,
        conversation: str,
        text: str,
        privacy: Privacy = Privacy.ASK,
        pictures: Sequence[Picture] = (),
    ) -> int:
        """Add a person's turn; the first one gives an unnamed conversation its title."""
        self._db.execute(
            "UPDATE conversation SET title = ? WHERE id = ? AND title = ''",
            (title_of(text), conversation),
        )
        turn = self._add(conversation, "user", text, "whole", privacy)
        for each in pictures:
            self._db.execute(
                "INSERT INTO picture (turn, media_type, data) VALUES (?, ?, ?)",
                (turn, each.media_type, each.data),
            )
        return turn

    def answer(self, conversation: str, privacy: Privacy = Privacy.ASK) -> AnswerWriter:
        """Begin an answer, to be written piece by piece."""
        return AnswerWriter(self._db, self._add(conversation, "assistant", "", "writing", privacy))

    def tool_result(self, conversation: str, call: ToolCall, text: str, privacy: Privacy) -> int:
        """Add what a tool answered to a call."""
        turn = self._add(conversation, "tool", text, "whole", privacy)
        encoded = msgspec.json.encode([call]).decode()
        self._db.execute("UPDATE turn SET calls = ? WHERE id = ?", (encoded, turn))
        return turn

    def resume(self, turn: int) -> AnswerWriter:
        """Go on with an answer that was not finished, behind what there is of it."""
        self._db.execute(
            "UPDATE turn SET state = 'writing', writer = ?, finish = '' WHERE id = ?",
            (self._me, turn),
        )
        return AnswerWriter(self._db, turn)

    def keep_here(self, conversation: str) -> None:
        """Let the last question, and all that answers it, never leave: its person refused."""
        for turn in self.versions.since_last_question(conversation):
            self._db.execute("UPDATE turn SET privacy = 'local_only' WHERE id = ?", (turn,))

    def awaits(self, name: str) -> bool:
        """Return whether a turn waits for a better answer by this name of the outbox."""
        row = self._db.execute("SELECT 1 FROM turn WHERE waiting = ?", (name,)).fetchone()
        return row is not None

    def stop_waiting(self, pending: Callable[[], Collection[str]]) -> None:
        """Let no turn wait for what the outbox has dropped; `pending` tells the names left in it.

        A turn's name is in the outbox before it is in the turn: what waits is read first.
        """
        rows = self._db.execute("SELECT waiting FROM turn WHERE waiting <> ''").fetchall()
        for name in {str(row["waiting"]) for row in rows} - set(pending() if rows else ()):
            self._db.execute("UPDATE turn SET waiting = '' WHERE waiting = ?", (name,))

    def better(self, name: str, beside: LaterAnswer) -> bool:
        """Keep a better answer beside the first; False where that is gone by now."""
        encoded = msgspec.json.encode(beside).decode()
        kept = self._db.execute(
            "UPDATE turn SET better = ?, waiting = '' WHERE waiting = ?", (encoded, name)
        )
        return kept.rowcount > 0

    def rename(self, conversation: str, title: str) -> None:
        """Give a conversation another title; an empty one is refused with RequestError."""
        if not title.strip():
            raise RequestError("the title is empty; write one")
        self._db.execute(
            "UPDATE conversation SET title = ? WHERE id = ?", (title.strip(), conversation)
        )

    def pin(self, conversation: str, pinned: bool) -> None:
        """Let a conversation stand before all others, or no longer."""
        self._db.execute(
            "UPDATE conversation SET pinned = ? WHERE id = ?", (int(pinned), conversation)
        )

    def instruct(self, conversation: str, system: str, privacy: Privacy = Privacy.ASK) -> None:
        """Set the system prompt of a conversation; an empty one takes it away."""
        self._db.execute(
            "UPDATE conversation SET system = ?, privacy = ? WHERE id = ?",
            (system, privacy.value, conversation),
        )

    def delete(self, conversation: str) -> None:
        """Delete a conversation for good: its text is overwritten in file, log and index."""
        self._remove("conversation = ?", (conversation,))
        self._db.execute("DELETE FROM conversation WHERE id = ?", (conversation,))
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def documents(self, conversation: str) -> list[str]:
        """Return the paths of what stays attached to a conversation. Raises RequestError."""
        row = self._db.execute(
            "SELECT documents FROM conversation WHERE id = ?", (conversation,)
        ).fetchone()
        if row is None:
            raise RequestError(f"there is no conversation {conversation!r}; it may be deleted")
        paths: list[str] = json.loads(row["documents"])
        return paths

    def all_documents(self) -> list[str]:
        """Return the paths of what stays attached to any conversation."""
        rows = self._db.execute("SELECT documents FROM conversation").fetchall()
        return [path for row in rows for path in json.loads(row["documents"])]

    def keep_documents(self, conversation: str, paths: Sequence[str]) -> None:
        """Keep the paths of what stays attached to a conversation."""
        self._db.execute(
            "UPDATE conversation SET documents = ? WHERE id = ?",
            (json.dumps(list(paths)), conversation),
        )

    def questions(self, limit: int = 500) -> list[str]:
        """Return what was asked, the newest first: the history of the arrow keys."""
        rows = self._db.execute(
            "SELECT content FROM turn WHERE role = 'user' AND conversation IN "
            "(SELECT id FROM conversation WHERE deleted_at = 0) ORDER BY id DESC LIMIT ?",
            (limit,),
        )
        return [str(row["content"]) for row in rows]

    def search(self, text: str, limit: int = 50) -> list[SearchHit]:
        """Return the conversations whose turns or title hold the text, any case, newest first."""
        return search(self._db, text, limit)

    def _add(
        self, conversation: str, role: Role, content: str, state: State, privacy: Privacy
    ) -> int:
        now = time.time()
        touched = self._db.execute(
            "UPDATE conversation SET changed_at = ? WHERE id = ? AND deleted_at = 0",
            (now, conversation),
        )
        if not touched.rowcount:
            raise RequestError(f"there is no conversation {conversation!r}; it may be deleted")
        made = self._db.execute(
            "INSERT INTO turn "
            "(conversation, parent, role, content, state, writer, created_at, privacy) "
            "VALUES (?, (SELECT tip FROM conversation WHERE id = ?), ?, ?, ?, ?, ?, ?)",
            (conversation, conversation, role, content, state, self._me, now, privacy.value),
        )
        assert made.lastrowid is not None, "an inserted row has an id"
        return made.lastrowid

    def _remove(self, where: str, values: tuple[Any, ...]) -> None:
        """Delete turns and rewrite the index: a deleted entry would else linger in its segments."""
        removed = self._db.execute(f"DELETE FROM turn WHERE {where}", values)
        if removed.rowcount:
            self._db.execute("INSERT INTO words (words) VALUES ('optimize')")


def title_of(text: str) -> str:
    """Return the title that a first question gives a conversation."""
    asked = apart(text).question
    line = next((line.strip() for line in asked.splitlines() if line.strip()), "")
    return line if len(line) <= TITLE_LEN else f"{line[: TITLE_LEN - 1].rstrip()}…"
