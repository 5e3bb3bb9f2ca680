"""Asker: the name of the device for whom an engine works, known to this task alone.

A door (the link, the HTTP face) sets it around an answer; an engine that shares its time or keeps
answers reads it, so that one device neither waits for nor sees what is another's.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from contextvars import ContextVar

_ASKER: ContextVar[str] = ContextVar("asker", default="")


def asker() -> str:
    """Return the device on whose behalf this task runs; empty where no door has said."""
    return _ASKER.get()


@contextlib.contextmanager
def asked_by(device: str) -> Iterator[None]:
    """Set the device for whom all inside, and every task begun there, is done."""
    token = _ASKER.set(device)
    try:
        yield
    finally:
        _ASKER.reset(token)


def asker_digest(text: str) -> str:
    """Return a name of `text` that is this asker's own, for a server that does not know them."""
    said = f"{asker()}\n{text}"
    return hashlib.sha256(said.encode("utf-8", "surrogatepass")).hexdigest()
