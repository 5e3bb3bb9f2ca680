"""Model names that an endpoint answers to, and what each means for a request."""

from __future__ import annotations

from offload.engine import Choosing, Engine, Named
from offload.messages import Privacy
from serve.http_errors import BadRequest

AUTO = "auto"  # whatever this endpoint chooses
AUTO_LOCAL = "auto-local"  # a promise that nothing leaves the device


def model_names(engine: Engine) -> list[str]:
    """Return the names this endpoint answers to. Raises LinkError where the card is not known."""
    if isinstance(engine, Named):
        return list(engine.names())
    return [engine.card().name, AUTO]


def check_name(name: str, engine: Engine) -> None:
    """Raise BadRequest, with status 404, for a name this endpoint does not answer to."""
    names = model_names(engine)
    # An engine that chooses reads more aims out of a name than it can list, such as auto-q90.
    is_aim = isinstance(engine, Choosing) and name.startswith(f"{AUTO}-")
    if name not in names and not is_aim:
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
    """Return the privacy class of a request to this name: no setting weakens that promise."""
    return Privacy.LOCAL_ONLY if name == AUTO_LOCAL else usual
