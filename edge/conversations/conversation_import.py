"""Import of conversations: the file or folder that ChatGPT, Jan or nearfar exported, in bounds."""

from __future__ import annotations

import sqlite3
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import msgspec

from backbone.errors import cause
from backbone.file_reading import read_bytes
from edge.conversations.chatgpt_export import read_chatgpt
from edge.conversations.imported import ImportedConversation
from edge.conversations.jan_export import read_jan
from edge.conversations.own_export import read_own
from edge.conversations.store import Conversations, title_of
from offload.errors import RequestError
from offload.messages import Privacy

MAX_BYTES = 1 << 29  # of one JSON file, and of all files in a folder or an archive together
MAX_FILES = 100_000

# None where nothing was said in it.
Parsed = ImportedConversation | Literal["unread"] | None


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What a file holds, and how many of its conversations could not be read."""

    conversations: tuple[ImportedConversation, ...]
    num_unread: int


def read_export(path: Path) -> Found:
    """Read what another program exported: a JSON file, a zip, or Jan's folder.

    One conversation that is broken does not spoil the others. Raises RequestError for a file that
    is none, or too large.
    """
    try:
        found = [*_documents(path)]
    except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise RequestError(
            f"{path} cannot be read ({cause(error)}); give the file or folder that was exported"
        ) from None
    if not found:
        raise RequestError(
            f"{path} holds no conversations; give ChatGPT's conversations.json or its zip, Jan's "
            "data folder, or what `nearfar conversations export --all` wrote"
        )
    read = [each for each in found if isinstance(each, ImportedConversation)]
    return Found(conversations=tuple(read), num_unread=found.count("unread"))


def _documents(path: Path) -> Iterator[Parsed]:
    if path.is_dir():
        yield from _jan(_Folder(path))
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            members = _Archive(archive)
            yield from _jan(members)
            for name in members.names:
                if PurePosixPath(name).match("conversations*.json"):
                    yield from _listed(members.read(name))
    else:
        yield from _listed(read_bytes(path, MAX_BYTES))


def _listed(data: bytes) -> Iterator[Parsed]:
    """Yield the conversations of a JSON list, ChatGPT's or our own."""
    try:
        rows = msgspec.json.decode(data, type=list[msgspec.Raw])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return
    for row in rows:
        yield _tried(_one, row)


def _tried(read: Callable[..., Parsed], *said: Any) -> Parsed:
    try:
        return read(*said)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError):
        return "unread"


def _one(row: msgspec.Raw) -> Parsed:
    kind = msgspec.json.decode(row, type=_Kind)
    return read_own(row) if kind.heading is not None else read_chatgpt(row)


class _Kind(msgspec.Struct, frozen=True):
    heading: Any = None


def _jan(files: _Folder | _Archive) -> Iterator[Parsed]:
    for name in files.names:
        if PurePosixPath(name).name == "thread.json":
            said = str(PurePosixPath(name).with_name("messages.jsonl"))
            messages = files.read(said) if said in files.names else b""
            yield _tried(read_jan, files.read(name), messages)


def keep_imported(
    store: Conversations, whole: ImportedConversation, privacy: Privacy = Privacy.ASK
) -> bool:
    """Keep a conversation of another program, all of it or nothing; False for one that is here.

    `privacy` is the class of its turns.
    """
    now = time.time()
    created = whole.created_at or now
    store.database.execute("BEGIN IMMEDIATE")
    try:
        made = store.database.execute(
            "INSERT OR IGNORE INTO conversation (id, title, system, created_at, changed_at, "
            "privacy) VALUES (?, ?, ?, ?, ?, ?)",
            (
                *(whole.id, whole.title or title_of(whole.turns[0].content), whole.system),
                *(created, whole.changed_at or created, privacy.value),
            ),
        )
        if made.rowcount:
            _keep_turns(store.database, whole, created, privacy)
    except BaseException:
        store.database.execute("ROLLBACK")
        raise
    store.database.execute("COMMIT")
    return made.rowcount > 0


def _keep_turns(
    db: sqlite3.Connection, whole: ImportedConversation, created: float, privacy: Privacy
) -> None:
    ids: list[int] = []
    for turn in whole.turns:
        row = db.execute(
            "INSERT INTO turn (conversation, parent, role, content, state, created_at, privacy)"
            " VALUES (?, ?, ?, ?, 'whole', ?, ?)",
            (
                *(whole.id, ids[turn.parent] if turn.parent >= 0 else 0, turn.role),
                *(turn.content, turn.created_at or created, privacy.value),
            ),
        )
        assert row.lastrowid is not None, "an inserted row has an id"
        ids.append(row.lastrowid)
    db.execute("UPDATE conversation SET tip = ? WHERE id = ?", (ids[whole.tip], whole.id))


class _Folder:
    """Files of a folder, by their names in it; links are not followed."""

    def __init__(self, path: Path) -> None:
        self._path, self._left = path, MAX_BYTES
        there = (each for each in path.rglob("*.json*") if each.is_file() and not each.is_symlink())
        self.names = sorted(each.relative_to(path).as_posix() for each in _few(there))

    def read(self, name: str) -> bytes:
        """Return a file. Raises OSError where all that is read would be too much."""
        data = read_bytes(self._path / name, self._left, pipes=False)
        self._left -= len(data)
        return data


class _Archive:
    """Files of a zip archive, which may unpack to far more than it says."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive, self._left = archive, MAX_BYTES
        self.names = sorted(_few(iter(archive.namelist())))

    def read(self, name: str) -> bytes:
        """Return a file. Raises OSError where all that is read would be too much."""
        with self._archive.open(name) as file:
            data = file.read(self._left + 1)
        self._left -= len(data)
        if self._left < 0:
            raise OSError(f"it unpacks to more than {MAX_BYTES:,} bytes")
        return data


def _few(names: Iterator[Any]) -> Sequence[Any]:
    found: list[Any] = []
    for each in names:
        found.append(each)
        if len(found) > MAX_FILES:
            raise OSError(f"it has more than {MAX_FILES:,} files")
    return found
