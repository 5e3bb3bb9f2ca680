"""Trash: conversations that were deleted, and can be brought back for a while."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from backbone.errors import NearfarError, cause
from offload.errors import RequestError

_log = logging.getLogger(__name__)

KEPT_S = 600.0  # after which what was deleted is erased, by whichever nearfar runs then
_LOOK_EVERY_S = 30.0


class Trash:
    """The deleted conversations of a database: in no list, not found, not yet erased."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def put(self, conversation: str) -> None:
        """Take a conversation out of all lists."""
        self._db.execute(
            "UPDATE conversation SET deleted_at = ? WHERE id = ?", (time.time(), conversation)
        )

    def restore(self, name: str = "") -> str:
        """Bring back what was deleted, by the beginning of its id or the last; return its id.

        Raises RequestError where it is gone by now.
        """
        row = self._db.execute(
            "SELECT id FROM conversation WHERE deleted_at > 0 AND substr(id, 1, ?) = ? "
            "ORDER BY deleted_at DESC LIMIT 1",
            (len(name), name),
        ).fetchone()
        if row is None:
            raise RequestError("nothing that was deleted can be brought back; its time was over")
        self._db.execute("UPDATE conversation SET deleted_at = 0 WHERE id = ?", (row["id"],))
        return str(row["id"])

    def expired(self, kept_s: float = KEPT_S) -> list[str]:
        """Return the conversations whose time is over."""
        rows = self._db.execute(
            "SELECT id FROM conversation WHERE deleted_at > 0 AND deleted_at <= ?",
            (time.time() - kept_s,),
        )
        return [str(row["id"]) for row in rows]


@contextlib.asynccontextmanager
async def emptied(trash: Trash, erase: Callable[[str], Awaitable[None]]) -> AsyncIterator[None]:
    """Erase what has been in the trash for long, now and while the block runs."""

    async def empty() -> None:
        while True:
            try:
                for conversation in trash.expired():
                    await erase(conversation)
            except (NearfarError, OSError, sqlite3.Error) as error:  # as of a full disk
                _log.warning("what was deleted is not erased yet: %s", cause(error))
            await asyncio.sleep(_LOOK_EVERY_S)

    job = asyncio.ensure_future(empty())
    try:
        yield
    finally:
        job.cancel()
        await asyncio.wait([job])
