"""Whether an engine that has answered before can answer still."""

from __future__ import annotations

from backbone.errors import NearfarError
from offload.engine import Breaking, Engine


def fault_of(engine: Engine) -> str | None:
    """Return why an engine can answer nobody now, or None where nothing is known against it."""
    if isinstance(engine, Breaking) and (why := engine.broken()) is not None:
        return why
    try:
        engine.card()  # which several processes have while one of them is up
    except NearfarError as error:
        return str(error)
    return None
