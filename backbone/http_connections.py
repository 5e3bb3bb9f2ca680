"""HTTP connections: how many are held, per address and in all, and for how long.

uvicorn waits for ever for a head that comes byte by byte, or not at all, and takes connections
until the process has no files left, when it can take none for anybody.
"""

from __future__ import annotations

import asyncio
import logging
import os
import traceback
from collections.abc import Iterable

from uvicorn.protocols.http.h11_impl import H11Protocol

from backbone.process_limits import raise_open_files

_SPARE_FILES = 128  # for models, databases, sockets of our own
MOST_CONNECTIONS = 8192
# Longer than clients keep an idle connection (5 s in httpx and OpenAI's client): were it closed
# here in the same moment as they use it again, their request would break.
KEEP_ALIVE_S = 75


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a line of asyncio's log is to be written: not one for each hung-up client's piece."""
    return record.msg != "socket.send() raised exception."


def _without_content(record: logging.LogRecord) -> bool:
    """Let an error that nobody foresaw be told by its kind and place: its words may quote a prompt.

    With NEARFAR_TRACE set it is told whole.
    """
    error = record.exc_info[1] if record.exc_info else None
    if error is not None and not os.environ.get("NEARFAR_TRACE"):
        frames = traceback.extract_tb(error.__traceback__)
        where = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "an unknown place"
        record.msg, record.args = "%s at %s", (type(error).__name__, where)
        record.exc_info = record.exc_text = None
    return True


class Connections:
    """Connections of one server: a newcomer takes the place of the one that was idle longest.

    One address may hold half of all, so that no other is shut out.
    """

    def __init__(self, max_connections: int | None = None) -> None:
        """`max_connections` is as many as there are files for where it is not told."""
        files = max(16, min(MOST_CONNECTIONS, raise_open_files() - _SPARE_FILES))
        self.max_connections = files if max_connections is None else min(max_connections, files)
        self.max_per_address = max(1, self.max_connections // 2)
        self._held: dict[HeldConnection, None] = {}  # who has been idle longest first
        self._of: dict[str, dict[HeldConnection, None]] = {}

    def __len__(self) -> int:
        return len(self._held)

    def add(self, one: HeldConnection) -> bool:
        """Add a connection, in an idle one's place where need be; False where all are busy."""
        mine = self._of.get(one.address, {})
        crowd: Iterable[HeldConnection] = ()
        if len(mine) >= self.max_per_address:
            crowd = mine
        elif len(self._held) >= self.max_connections:
            crowd = self._held
        if crowd:
            idle = next((each for each in crowd if each.is_idle), None)
            if idle is None:
                return False
            self.remove(idle)
            idle.part()
        self._held[one] = self._of.setdefault(one.address, {})[one] = None
        return True

    def touch(self, one: HeldConnection) -> None:
        """Note that a connection has just been used."""
        if one in self._held:
            for held in (self._held, self._of[one.address]):
                held[one] = held.pop(one)

    def remove(self, one: HeldConnection) -> None:
        """Remove a connection; an unknown one is no error."""
        if self._held.pop(one, 0) is None:
            mine = self._of[one.address]
            del mine[one]
            if not mine:
                del self._of[one.address]


class HeldConnection(H11Protocol):
    """One HTTP connection, and when it was used last."""

    address = ""

    @property
    def is_idle(self) -> bool:
        """Whether no request of it is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def part(self) -> None:
        """Close the connection at once: another waits for its place."""
        self.transport.abort()


def protocol_for(
    head_timeout_s: float, connections: Connections | None = None
) -> type[HeldConnection]:
    """Return uvicorn's protocol class with a header timeout: it closes where no whole head came.

    A kept connection on which nothing has come since its last answer has uvicorn's own limit.
    """
    held = connections or Connections()
    logging.getLogger("asyncio").addFilter(_is_news)
    logging.getLogger("uvicorn.error").addFilter(_without_content)

    class Patient(HeldConnection):
        _patience: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self.address = str(self.client[0]) if self.client else ""
            if held.add(self):
                self._wait()
            else:
                transport.abort()

        def data_received(self, data: bytes) -> None:
            before = self.cycle
            super().data_received(data)
            if self.cycle is not before:
                self._wait_no_more()
                held.touch(self)
            elif self._patience is None and (before is None or before.response_complete):
                self._wait()

        def on_response_complete(self) -> None:
            answered = self.cycle
            super().on_response_complete()
            held.touch(self)
            if self.cycle is answered and self.conn.trailing_data[0]:  # the next head has begun
                self._wait()

        def connection_lost(self, exc: Exception | None) -> None:
            self._wait_no_more()
            held.remove(self)
            super().connection_lost(exc)

        def _wait(self) -> None:
            self._wait_no_more()
            self._patience = self.loop.call_later(head_timeout_s, self.transport.close)

        def _wait_no_more(self) -> None:
            if self._patience is not None:
                self._patience.cancel()
                self._patience = None

    return Patient
