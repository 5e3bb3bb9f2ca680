"""Versions of a conversation: its turns are a tree, of which one path is shown.

Whatever is asked otherwise or answered again is another child of the same turn; nothing is taken
out for it. A conversation's `tip` is the last turn of the path that is shown, 0 before the first.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Protocol

from offload.errors import RequestError
from offload.messages import Privacy


class Node(Protocol):
    """A turn as far as the tree goes; the first turns have parent 0."""

    @property
    def id(self) -> int: ...
    @property
    def parent(self) -> int: ...


class Tree:
    """The tree of one conversation's turns."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        self._parents: dict[int, int] = {}
        self._children: dict[int, list[int]] = defaultdict(list)  # the oldest first
        for node in sorted(nodes, key=lambda each: each.id):
            # A parent is always older; a damaged file could lead round in a circle for ever.
            parent = node.parent if node.parent < node.id else 0
            self._parents[node.id] = parent
            self._children[parent].append(node.id)

    def path(self, tip: int) -> list[int]:
        """Return the turns from the first to `tip`."""
        found = []
        while tip in self._parents:
            found.append(tip)
            tip = self._parents[tip]
        return found[::-1]

    def siblings(self, turn: int) -> Sequence[int]:
        """Return every version of a turn, itself among them, the oldest first."""
        return self._children[self._parents[turn]]

    def newest_end(self, turn: int) -> int:
        """Return the last turn of the newest path through a turn; of 0, of them all."""
        while children := self._children.get(turn):
            turn = children[-1]
        return turn

    def ends(self) -> list[int]:
        """Return the last turn of every path, the oldest first."""
        return [turn for turn in self._parents if not self._children.get(turn)]

    def __contains__(self, turn: int) -> bool:
        return turn in self._parents


class _Row:
    def __init__(self, row: sqlite3.Row) -> None:
        self.id, self.parent = int(row["id"]), int(row["parent"])


class Versions:
    """The versions of every conversation in a database."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._undone: dict[str, int] = {}  # the tip that the first of several undo() left

    def tip(self, conversation: str) -> int:
        """Return the last turn that is shown, 0 before the first. Raises RequestError."""
        row = self._db.execute(
            "SELECT tip FROM conversation WHERE id = ?", (conversation,)
        ).fetchone()
        if row is None:
            raise RequestError(f"there is no conversation {conversation!r}; it may be deleted")
        return int(row["tip"])

    def show(self, conversation: str, tip: int) -> None:
        """Show the turns as far as `tip`, which tip() has told before.

        What leaves the screen waits for no better answer any more.
        """
        tree = self._tree(conversation)
        left = set(tree.path(self.tip(conversation))) - set(tree.path(tip))
        for turn in left:
            self._db.execute("UPDATE turn SET waiting = '' WHERE id = ?", (turn,))
        self._db.execute("UPDATE conversation SET tip = ? WHERE id = ?", (tip, conversation))

    def choose(self, conversation: str, turn: int) -> None:
        """Show the newest path through a turn, another version mostly. Raises RequestError."""
        tree = self._tree(conversation)
        if turn not in tree:
            raise RequestError(_NO_VERSION)
        self.show(conversation, tree.newest_end(turn))

    def ends(self, conversation: str) -> list[int]:
        """Return the last turn of every version of a conversation, the oldest first."""
        return self._tree(conversation).ends()

    def before(self, conversation: str, turn: int) -> None:
        """Go back before a turn, to ask in its place. Raises RequestError."""
        row = self._db.execute(
            "SELECT parent FROM turn WHERE conversation = ? AND id = ?", (conversation, turn)
        ).fetchone()
        if row is None:
            raise RequestError(_NO_VERSION)
        self.show(conversation, row["parent"])

    def undo(self, conversation: str) -> str | None:
        """Go back before the last question, which is kept; return it, None without one."""
        row = self._last_question(conversation)
        if row is None:
            return None
        tip, tree = self.tip(conversation), self._tree(conversation)
        if tip not in tree.path(self._undone.get(conversation, 0)):
            self._undone[conversation] = tip
        self.show(conversation, row["parent"])
        return str(row["content"])

    def redo(self, conversation: str) -> bool:
        """Show what undo() took back, or the newest that stands behind what is shown; False where
        nothing does.
        """
        tip, tree = self.tip(conversation), self._tree(conversation)
        undone = self._undone.pop(conversation, 0)
        is_behind = tip == 0 or tip in tree.path(undone)
        end = undone if undone and is_behind else tree.newest_end(tip)
        if end != tip:
            self.show(conversation, end)
        return end != tip

    def unanswer(self, conversation: str) -> str | None:
        """Go back to the last question, whose answers are kept; return it, None without one."""
        row = self._last_question(conversation)
        if row is None:
            return None
        self.show(conversation, row["id"])
        return str(row["content"])

    def stays(self, conversation: str) -> bool:
        """Return whether the last question must never leave."""
        row = self._last_question(conversation)
        return row is not None and row["privacy"] == Privacy.LOCAL_ONLY.value

    def since_last_question(self, conversation: str) -> list[int]:
        """Return the last question that is shown, and the turns behind it."""
        row = self._last_question(conversation)
        if row is None:
            return []
        path = self._tree(conversation).path(self.tip(conversation))
        return path[path.index(row["id"]) :]

    def _tree(self, conversation: str) -> Tree:
        rows = self._db.execute(
            "SELECT id, parent FROM turn WHERE conversation = ?", (conversation,)
        )
        return Tree(_Row(row) for row in rows)

    def _last_question(self, conversation: str) -> sqlite3.Row | None:
        for turn in reversed(self._tree(conversation).path(self.tip(conversation))):
            row: sqlite3.Row = self._db.execute(
                "SELECT * FROM turn WHERE id = ?", (turn,)
            ).fetchone()
            if row["role"] == "user":
                return row
        return None


_NO_VERSION = "this conversation has no such version; open it anew"
