"""Imported conversations: what another program exported, as turns that the store can keep."""

from __future__ import annotations

import uuid
from typing import Literal

import msgspec

MAX_TURNS = 20_000  # of one conversation
MAX_CHARACTERS = 2_000_000  # of one turn
ROLES = ("user", "assistant")

_NAMES = uuid.UUID("6f0f1c53-5a3c-4c62-9d1b-6d1f1f3f4a10")  # of ids that come again with a file
_LATEST_S = 4_102_444_800.0  # the year 2100; larger numbers are milliseconds


class ImportedTurn(msgspec.Struct, frozen=True, kw_only=True):
    """Imported turn; `parent` is the number of the turn before it in the list, -1 for none."""

    parent: int
    role: Literal["user", "assistant"]
    content: str
    created_at: float = 0.0


class ImportedConversation(msgspec.Struct, frozen=True, kw_only=True):
    """Imported conversation; `tip` is the number of the last turn that is shown."""

    id: str
    title: str
    system: str = ""
    created_at: float = 0.0
    changed_at: float = 0.0
    turns: tuple[ImportedTurn, ...]
    tip: int


def known_id(program: str, source: str) -> str:
    """Return the id that a conversation of a program gets, the same whenever it is imported."""
    return uuid.uuid5(_NAMES, f"{program} {source}"[:1000]).hex


def is_id(text: str) -> bool:
    """Whether a text is an id as the store makes them."""
    return len(text) == 32 and all(c in "0123456789abcdef" for c in text)


def plain_title(title: str | None) -> str:
    """Return a title on one line, not too long."""
    return " ".join((title or "").split())[:200]


def bounded(text: str) -> str:
    """Return a text that can be kept. Raises ValueError for one that is too long."""
    if len(text) > MAX_CHARACTERS:
        raise ValueError("too long")
    return text.encode("utf-8", "replace").decode()  # half a character would not be kept


def seconds(moment: float | None) -> float:
    """Return a moment in seconds since 1970, of seconds or milliseconds; 0 where it is none."""
    if moment is None or not 0 < moment < 1000 * _LATEST_S:
        return 0.0
    return moment / 1000 if moment > _LATEST_S else moment
