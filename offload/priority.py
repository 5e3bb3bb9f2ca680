"""Priority: whether the work of this task is read by somebody now, or is batch work.

A door sets it around an answer, beside offload/asker.py; an engine that shares its time gives batch
work what readers leave.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Literal

Priority = Literal["interactive", "batch"]

_PRIORITY: ContextVar[Priority] = ContextVar("priority", default="interactive")


def priority() -> Priority:
    """Return the priority of the work that this task does; interactive where no door has said."""
    return _PRIORITY.get()


@contextlib.contextmanager
def prioritized(wanted: Priority) -> Iterator[None]:
    """Set the priority of all inside, and of every task begun there."""
    token = _PRIORITY.set(wanted)
    try:
        yield
    finally:
        _PRIORITY.reset(token)
