"""Ledger reading: what left, what was decided, and the sums."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec

from backbone.errors import cause
from offload.config.obstacles import obstacle
from offload.egress.ledger.entries import (
    DaySpending,
    DecisionEntry,
    Departure,
    DepartureOutcome,
    LedgerEntry,
    Totals,
)
from offload.egress.ledger.schema import connect, is_damage
from offload.errors import RequestError, SettingsError
from offload.messages import Finish

_DEPARTURE = (
    "key, request_id, left_at, endpoint, why, privacy, num_bytes, digest, found, conversation, "
    "content, state, bytes_sent, bytes_received, num_tokens, cost, seconds, failure"
)
_DECISION = "number, request_id, began_at, privacy, inputs, propensity, finish, content"
_SPENT = (
    "ifnull(sum(cost), 0), ifnull(sum(num_tokens), 0), "
    "ifnull(sum(ifnull(bytes_sent, num_bytes)), 0)"
)


class LedgerReader:
    """Ledger reader: its file, open for reading."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def departures(self, *, limit: int = -1, request_id: str | None = None) -> list[LedgerEntry]:
        """Return what left, the newest first; of one request, or of all."""
        where = "" if request_id is None else "WHERE request_id = ?"
        rows = self._connection.execute(
            f"SELECT {_DEPARTURE} FROM departures {where} ORDER BY number DESC LIMIT ?",
            (limit,) if request_id is None else (request_id, limit),
        )
        return [_left(row) for row in rows]

    def decision(self, name: str) -> DecisionEntry:
        """Return the newest decision of that request, by the first letters of its id, or "last".

        Raises RequestError where there is none, or more than one request begins so.
        """
        if name == "last":
            rows = self._decided("ORDER BY number DESC LIMIT 1", ())
        else:
            rows = self._decided(
                "WHERE substr(request_id, 1, ?) = ? ORDER BY number DESC", (len(name), name)
            )
        if not rows and name == "last":
            raise RequestError("no decision is kept yet; ask something first, with `nearfar ask`")
        if not rows or not name:
            raise RequestError(
                f"no decision {name!r} is kept; `nearfar policy explain last` shows the newest"
            )
        if len({row.request_id for row in rows}) > 1 and rows[0].request_id != name:
            raise RequestError(f"{name!r} begins the ids of several requests; give more of it")
        return rows[0]

    def decisions(self, *, limit: int = -1) -> list[DecisionEntry]:
        """Return what was decided, the newest first."""
        return self._decided("ORDER BY number DESC LIMIT ?", (limit,))

    def totals(self) -> Totals:
        """Return the sums over everything that ever left."""
        gone = self._connection.execute(
            "SELECT departures, num_bytes, tokens, cost FROM gone"
        ).fetchone()
        cost, tokens, num_bytes = self._connection.execute(
            f"SELECT {_SPENT} FROM departures"
        ).fetchone()
        (count,) = self._connection.execute("SELECT count(*) FROM departures").fetchone()
        return Totals(
            departures=gone[0] + count,
            num_bytes=gone[1] + num_bytes,
            tokens=gone[2] + tokens,
            cost=gone[3] + cost,
        )

    def _decided(self, rest: str, values: tuple[Any, ...]) -> list[DecisionEntry]:
        rows = self._connection.execute(f"SELECT {_DECISION} FROM decisions {rest}", values)
        return [_decision(row) for row in rows]


@contextmanager
def open_book(path: Path) -> Iterator[LedgerReader]:
    """Open the ledger for reading; without a file it is empty. Raises SettingsError."""
    try:
        with closing(connect(path)) as connection:
            yield LedgerReader(connection)
    except (OSError, sqlite3.Error) as error:
        if isinstance(error, sqlite3.Error) and is_damage(error):
            message = f"{cause(error)}; move the file away to begin anew"
        else:
            message = obstacle(path, error)
        raise SettingsError(f"the ledger {path} cannot be read: {message}") from None


def spent_since(connection: sqlite3.Connection, start: float, end: float) -> DaySpending:
    """Return what leaving cost between two moments, whatever the clock did meanwhile.

    Counted are the lines of that time, and all written after the last one from before it: a clock
    that was set forward or back for a while hides no line of today. Raises sqlite3.Error.
    """
    cost, tokens, num_bytes = connection.execute(
        f"""SELECT {_SPENT} FROM departures WHERE (left_at >= ?1 AND left_at < ?2)
        OR number > ifnull(
            -- the plus keeps the index away: newest first, this ends at the first line of yesterday
            (SELECT number FROM departures WHERE +left_at < ?1 ORDER BY number DESC LIMIT 1), 0)""",
        (start, end),
    ).fetchone()
    return DaySpending(cost=cost, tokens=tokens, num_bytes=num_bytes)


def _left(row: tuple[Any, ...]) -> LedgerEntry:
    names = _DEPARTURE.split(", ")
    values = dict(zip(names, row, strict=True))
    values["found"] = json.loads(values["found"])
    out = {name: values[name] for name in Departure.__struct_fields__}
    back = {name: values[name] for name in DepartureOutcome.__struct_fields__}
    return LedgerEntry(departure=Departure(**out), back=DepartureOutcome(**back))


def _decision(row: tuple[Any, ...]) -> DecisionEntry:
    values = dict(zip(_DECISION.split(", "), row, strict=True))
    values["inputs"] = json.loads(values["inputs"])
    values["finish"] = msgspec.json.decode(values["finish"], type=Finish)
    return DecisionEntry(**values)
