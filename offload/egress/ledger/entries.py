"""Ledger entries: a line for every text that left, and one for every decision."""

from __future__ import annotations

import hashlib
import uuid
from typing import Literal

import msgspec

from offload.messages import Finish

State = Literal["leaving", "answered", "failed", "abandoned"]


class Departure(msgspec.Struct, frozen=True, kw_only=True):
    """Departure: a text on its way out, written down before its first byte leaves.

    `digest` is the SHA-256 of the bytes that leave, after redaction; `content` is the text itself,
    only where the person keeps it. `found` counts what was detected in it, by class and by what was
    done ("email redact": 2).
    """

    key: str = msgspec.field(default_factory=lambda: uuid.uuid4().hex)
    request_id: str
    left_at: float  # seconds since the epoch
    endpoint: str
    why: str  # a code of offload/reasons.py
    privacy: str
    num_bytes: int  # of the request as it is encoded
    digest: str
    found: dict[str, int] = {}
    conversation: str = ""  # its id where it was asked in one
    content: str | None = None


class DepartureOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """Outcome of a departure; bytes are None where nobody could count them."""

    state: State
    bytes_sent: int | None = None
    bytes_received: int | None = None
    num_tokens: int = 0  # read and written by the cloud
    cost: float = 0.0
    seconds: float = 0.0
    failure: str | None = None


class LedgerEntry(msgspec.Struct, frozen=True, kw_only=True):
    """Ledger entry: a departure with its outcome."""

    departure: Departure
    back: DepartureOutcome

    @property
    def num_bytes(self) -> int:
        """Return the bytes that left: as counted, else as many as were to leave."""
        counted = self.back.bytes_sent
        return self.departure.num_bytes if counted is None else counted


class DecisionEntry(msgspec.Struct, frozen=True, kw_only=True):
    """Decision entry of the ledger; `finish` holds its outcome and its cost."""

    number: int
    request_id: str
    began_at: float
    privacy: str
    inputs: dict[str, float | str | bool | None]
    propensity: float
    finish: Finish
    content: str | None = None


class DaySpending(msgspec.Struct, frozen=True, kw_only=True):
    """Spending of today: what leaving has cost so far."""

    cost: float = 0.0
    tokens: int = 0
    num_bytes: int = 0


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """Sums of everything that ever left, also of lines that have made room for newer ones."""

    departures: int = 0
    num_bytes: int = 0
    tokens: int = 0
    cost: float = 0.0


def digest(content: bytes) -> str:
    """Return the name by which a text can be recognised without being kept."""
    return hashlib.sha256(content).hexdigest()
