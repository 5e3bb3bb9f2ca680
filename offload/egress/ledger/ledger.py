"""Ledger: writes down what left and what was decided, and never delays an answer.

A line that cannot be written (a full disk, a locked or damaged file) is kept in memory and written
when it can be; the person is told once. A damaged file is moved aside, never deleted.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from offload.config.obstacles import obstacle
from offload.egress.ledger import schema
from offload.egress.ledger.entries import DaySpending, Departure, DepartureOutcome
from offload.egress.ledger.reading import spent_since
from offload.egress.ledger.schema import start_of_day, tidy
from offload.messages import Privacy, Request
from offload.reasons import Decision

_log = logging.getLogger("nearfar.ledger")
_TIDY_EVERY = 200  # lines
_RETRY_S = 1.0
_MAX_WAITING = 10_000  # lines kept in memory while the file takes none

_LEAVING = """INSERT INTO departures
    (key, request_id, left_at, endpoint, why, privacy, num_bytes, digest, found, content,
    conversation) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""
_RETURNED = """UPDATE departures SET state = ?, bytes_sent = ?, bytes_received = ?, num_tokens = ?,
    cost = ?, seconds = ?, failure = ? WHERE key = ?"""
_DECIDED = """INSERT INTO decisions
    (request_id, began_at, privacy, inputs, propensity, finish, content)
    VALUES (?, ?, ?, ?, ?, ?, ?)"""

_Line = tuple[str, tuple[Any, ...]]


class Ledger:
    """Writer of the ledger's file; any thread may call it, and no call raises or waits for a disk.

    Texts are kept only with `keep_content`, and of decisions only those of class cloud_ok.
    """

    def __init__(
        self,
        path: Path,
        *,
        keep_content: bool = False,
        max_bytes: int = 64 << 20,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.path = path
        self.keep_content = keep_content
        self._max_bytes = max_bytes
        self._clock = clock
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._waiting: deque[_Line] = deque(maxlen=_MAX_WAITING)
        self._waiting_spent = DaySpending()
        self._retry_at_s = 0.0
        self._num_written = 0
        self._told = False
        self._upkeep: threading.Thread | None = None

    def leaving(self, departure: Departure) -> None:
        """Write down a text before it leaves."""
        found = msgspec.json.encode(departure.found).decode()
        content = departure.content if self.keep_content else None
        values = (departure.key, departure.request_id, departure.left_at, departure.endpoint)
        values += (departure.why, departure.privacy, departure.num_bytes, departure.digest)  # type: ignore[assignment]
        self._write(
            (_LEAVING, (*values, found, content, departure.conversation)),
            DaySpending(num_bytes=departure.num_bytes),
        )

    def returned(self, key: str, back: DepartureOutcome) -> None:
        """Write down what came back for the departure of that key."""
        values = (back.state, back.bytes_sent, back.bytes_received, back.num_tokens)
        line = (_RETURNED, (*values, back.cost, back.seconds, back.failure, key))
        self._write(line, DaySpending(cost=back.cost, tokens=back.num_tokens))

    def record(self, request: Request, decision: Decision) -> None:
        """Write down a decision and its outcome; see Recorder."""
        kept = self.keep_content and request.privacy is Privacy.CLOUD_OK
        values = (
            decision.request_id,
            decision.began_at,
            request.privacy.value,
            msgspec.json.encode(decision.inputs).decode(),
            decision.propensity,
            msgspec.json.encode(decision.finish).decode(),
            request.last_text() if kept else None,
        )
        self._write((_DECIDED, values), DaySpending())

    def spent_today(self) -> DaySpending:
        """Return what leaving has cost since midnight, by this machine's clock."""
        with self._lock:
            waiting = self._waiting_spent
            try:
                today = start_of_day(self._clock())
                kept = spent_since(self._open(), today, today + 86_400)
            except (OSError, sqlite3.Error) as error:
                self._trouble(error)
                return waiting
        return DaySpending(
            cost=kept.cost + waiting.cost,
            tokens=kept.tokens + waiting.tokens,
            num_bytes=kept.num_bytes + waiting.num_bytes,
        )

    def close(self) -> None:
        """Write what waits, make room if need be, and close the file."""
        if self._upkeep is not None:
            self._upkeep.join()
        with self._lock:
            self._retry_at_s = 0.0
            self._flush()
            if self._waiting and not (self._told and len(self._waiting) == 1):
                count = len(self._waiting)
                lines = "1 line was" if count == 1 else f"{count} lines were"
                _log.warning("the ledger could not be written to the end: %s not kept", lines)
            if self._connection is not None:
                self._connection.close()
                self._connection = None
        if self._num_written:
            self._tidy()

    def _write(self, line: _Line, spent: DaySpending) -> None:
        with self._lock:
            self._waiting.append(line)
            waiting = self._waiting_spent
            self._waiting_spent = DaySpending(
                cost=waiting.cost + spent.cost,
                tokens=waiting.tokens + spent.tokens,
                num_bytes=waiting.num_bytes + spent.num_bytes,
            )
            self._flush()
            due = self._num_written // _TIDY_EVERY > (self._num_written - 1) // _TIDY_EVERY
        if due and (self._upkeep is None or not self._upkeep.is_alive()):
            self._upkeep = threading.Thread(target=self._tidy, name="ledger upkeep")
            self._upkeep.start()

    def _flush(self) -> None:
        """Write the lines that wait, the oldest first; those that cannot be go on waiting."""
        if not self._waiting or time.monotonic() < self._retry_at_s:
            return
        try:
            connection = self._open()
            while self._waiting:
                connection.execute(*self._waiting[0])
                self._waiting.popleft()
                self._num_written += 1
        except (OSError, sqlite3.Error) as error:
            self._trouble(error)
            return
        self._waiting_spent, self._told = DaySpending(), False

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            try:
                self._connection = schema.connect(self.path)
            except sqlite3.DatabaseError as error:
                if not schema.is_damage(error):
                    raise
                self._set_aside(error)
                self._connection = schema.connect(self.path)
        return self._connection

    def _trouble(self, error: Exception) -> None:
        self._retry_at_s = time.monotonic() + _RETRY_S
        if schema.is_damage(error):
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            self._retry_at_s = 0.0
            self._set_aside(error)
        elif not self._told:
            self._told = True
            _log.warning(
                "the ledger %s cannot be written, and answers go on without: %s",
                self.path,
                obstacle(self.path, error),
            )

    def _set_aside(self, error: Exception) -> None:
        try:
            aside = schema.set_aside(self.path)
        except OSError as refusal:
            _log.warning("the ledger %s is damaged and in the way (%s)", self.path, refusal)
            self._retry_at_s = time.monotonic() + _RETRY_S
            return
        _log.warning(
            "the ledger was damaged (%s); it is kept as %s, a new one begins", error, aside
        )

    def _tidy(self) -> None:
        """Keep the file small, over a connection of its own; the next time will do as well."""
        try:
            tidy(self.path, self._max_bytes, now=self._clock())
        except (OSError, sqlite3.Error) as error:
            _log.debug("the ledger was not tidied: %s", error)
