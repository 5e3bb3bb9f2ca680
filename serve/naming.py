"""The names an endpoint answers to, and what each means for a request."""

from __future__ import annotations

from offload.engine import Choosing, Engine, Named
from offload.messages import Privacy
from serve.failures import BadRequest

AUTO = "auto"  # whatever this endpoint chooses
AUTO_LOCAL = "auto-local"  # the same, and nothing leaves the device


def model_names(engine: Engine) -> list[str]:
    """Return the names this endpoint answers to. Raises LinkError where the card is not known."""
    if isinstance(engine, Named):
        return list(engine.names())
    # Only an engine that chooses can promise that nothing leaves the device.
    return [engine.card().name, AUTO, *([AUTO_LOCAL] if isinstance(engine, Choosing) else [])]


def check_name(name: str, engine: Engine) -> None:
    """Raise BadRequest, with status 404, for a name this endpoint does not answer to."""
    names = model_names(engine)
    if name not in names:
        raise BadRequest(
            f"there is no model {name!r} here; there are {', '.join(names)}",
            param="model",
            code="model_not_found",
            status=404,
        )


def model_of(name: str, engine: Engine) -> str:
    """Return what Request.model must say; an engine without names of its own needs none."""
    return name if isinstance(engine, Named) else ""


def privacy_of(name: str, usual: Privacy) -> Privacy:
    """Return the privacy class of a request to this name."""
    return Privacy.LOCAL_ONLY if name == AUTO_LOCAL else usual
