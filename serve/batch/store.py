"""Batch store: files, batches and the results of their lines, in a folder that outlives the server.

What is in SQLite was written whole or not at all, however the process ends; contents of files lie
beside it. Everything belongs to one key, by the name of its tenant, and is shown to no other.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from backbone.files import make_private, open_private
from serve.batch.bodies import ENDED, BatchReply, FileReply

_BUSY_S = 5.0
_TABLES = """
CREATE TABLE IF NOT EXISTS files (
    id TEXT PRIMARY KEY, tenant TEXT NOT NULL, document BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS batches (
    number INTEGER PRIMARY KEY, id TEXT UNIQUE NOT NULL, tenant TEXT NOT NULL,
    ended INTEGER NOT NULL, document BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS results (
    batch TEXT NOT NULL, line INTEGER NOT NULL, failed INTEGER NOT NULL, document BLOB NOT NULL,
    PRIMARY KEY (batch, line)
) WITHOUT ROWID;
"""


class BatchStore:
    """Batch store in a private folder; its file is open from the first use to `close`."""

    def __init__(self, folder: Path, *, wall: Callable[[], float] = time.time) -> None:
        self.folder, self._wall = folder, wall
        self._open: sqlite3.Connection | None = None

    def another(self) -> BatchStore:
        """Return the same store for another thread."""
        return BatchStore(self.folder, wall=self._wall)

    def now(self) -> int:
        """Return the time in whole seconds since 1970."""
        return int(self._wall())

    def path_of(self, file_id: str) -> Path:
        """Return where a file's content lies."""
        return self.folder / "files" / f"{file_id}.jsonl"

    def new_file_path(self) -> tuple[str, Path]:
        """Return the id of a file that is to be written, and where; see `add_file`."""
        file_id = f"file-{secrets.token_hex(12)}"
        make_private(self.folder / "files")
        return file_id, self.path_of(file_id)

    def add_file(self, tenant: str, file_id: str, *, filename: str, purpose: str) -> FileReply:
        """Let a file be found whose content has been written."""
        size = self.path_of(file_id).stat().st_size
        told = FileReply(
            id=file_id, bytes=size, created_at=self.now(), filename=filename, purpose=purpose
        )
        with self._turn() as file:
            document = msgspec.json.encode(told)
            file.execute(
                "INSERT OR REPLACE INTO files VALUES (?, ?, ?)", (file_id, tenant, document)
            )
        return told

    def files(self, tenant: str) -> list[FileReply]:
        """Return a tenant's files, the newest first."""
        rows = self._rows("SELECT document FROM files WHERE tenant = ?", (tenant,))
        found = [msgspec.json.decode(document, type=FileReply) for (document,) in rows]
        return sorted(found, key=lambda each: each.created_at, reverse=True)

    def file(self, tenant: str, file_id: str) -> FileReply | None:
        """Return a tenant's file, or None."""
        query = "SELECT document FROM files WHERE id = ? AND tenant = ?"
        rows = self._rows(query, (file_id, tenant))
        return msgspec.json.decode(rows[0][0], type=FileReply) if rows else None

    def delete_file(self, tenant: str, file_id: str) -> bool:
        """Erase a file; False where the tenant has none of this id."""
        with self._turn() as file:
            query = "DELETE FROM files WHERE id = ? AND tenant = ?"
            if not file.execute(query, (file_id, tenant)).rowcount:
                return False
        self.path_of(file_id).unlink(missing_ok=True)
        return True

    def add_batch(self, tenant: str, batch: BatchReply) -> None:
        """Keep a new batch."""
        with self._turn() as file:
            row = (batch.id, tenant, False, msgspec.json.encode(batch))
            file.execute(
                "INSERT INTO batches (id, tenant, ended, document) VALUES (?, ?, ?, ?)", row
            )

    def change_batch(self, batch_id: str, change: Callable[[BatchReply], None]) -> BatchReply:
        """Change a batch in turn with other processes, and return it.

        One that has ended stays as it is; the results of its lines are in its files.
        """
        with self._turn() as file:
            query = "SELECT document FROM batches WHERE id = ?"
            (document,) = file.execute(query, (batch_id,)).fetchone()
            batch = msgspec.json.decode(document, type=BatchReply)
            if batch.status in ENDED:
                return batch
            change(batch)
            ended = batch.status in ENDED
            row = (msgspec.json.encode(batch), ended, batch_id)
            file.execute("UPDATE batches SET document = ?, ended = ? WHERE id = ?", row)
            if ended:
                file.execute("DELETE FROM results WHERE batch = ?", (batch_id,))
        return batch

    def batch(self, tenant: str, batch_id: str) -> BatchReply | None:
        """Return a tenant's batch, or None."""
        query = "SELECT document FROM batches WHERE id = ? AND tenant = ?"
        rows = self._rows(query, (batch_id, tenant))
        return self._counted(rows[0][0]) if rows else None

    def batches(self, tenant: str) -> list[BatchReply]:
        """Return a tenant's batches, the newest first."""
        query = "SELECT document FROM batches WHERE tenant = ? ORDER BY number DESC"
        return [self._counted(document) for (document,) in self._rows(query, (tenant,))]

    def unfinished(self) -> list[tuple[str, BatchReply]]:
        """Return every batch that has not ended, the oldest first, and whose it is."""
        query = "SELECT tenant, document FROM batches WHERE NOT ended ORDER BY number"
        rows = self._rows(query, ())
        return [(tenant, msgspec.json.decode(row, type=BatchReply)) for tenant, row in rows]

    def add_result(self, batch_id: str, line: int, document: bytes, *, failed: bool) -> None:
        """Keep what became of a line; the first result of a line stands."""
        with self._turn() as file:
            row = (batch_id, line, failed, document)
            file.execute("INSERT OR IGNORE INTO results VALUES (?, ?, ?, ?)", row)

    def done_lines(self, batch_id: str) -> set[int]:
        """Return the lines whose result is known."""
        rows = self._rows("SELECT line FROM results WHERE batch = ?", (batch_id,))
        return {line for (line,) in rows}

    def results(self, batch_id: str, *, failed: bool) -> Iterator[bytes]:
        """Yield what became of the lines that were answered, or of those that failed, in order."""
        query = "SELECT document FROM results WHERE batch = ? AND failed = ? ORDER BY line"
        for (document,) in self._connected().execute(query, (batch_id, failed)):
            yield document

    def counts(self, batch_id: str) -> tuple[int, int]:
        """Return how many lines of a running batch were answered, and how many failed."""
        query = "SELECT COUNT(*), COALESCE(SUM(failed), 0) FROM results WHERE batch = ?"
        ((done, failed),) = self._rows(query, (batch_id,))
        return done - failed, failed

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def _counted(self, document: bytes) -> BatchReply:
        batch = msgspec.json.decode(document, type=BatchReply)
        if batch.status not in ENDED:
            counts = batch.request_counts
            counts.completed, counts.failed = self.counts(batch.id)
        return batch

    def _rows(self, query: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
        return list(self._connected().execute(query, tuple(values)))

    @contextlib.contextmanager
    def _turn(self) -> Iterator[sqlite3.Connection]:
        file = self._connected()
        with file:
            file.execute("BEGIN IMMEDIATE")
            yield file

    def _connected(self) -> sqlite3.Connection:
        if self._open is None:
            make_private(self.folder)
            path = self.folder / "batches.sqlite"
            os.close(open_private(path, os.O_RDWR | os.O_CREAT))
            self._open = sqlite3.connect(path, timeout=_BUSY_S, check_same_thread=False)
            # What was written outlives the process, and all but the last moment a power cut.
            self._open.execute("PRAGMA journal_mode = WAL")
            self._open.execute("PRAGMA synchronous = NORMAL")
            self._open.executescript(_TABLES)
        return self._open
