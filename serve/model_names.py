"""Model names that an endpoint answers to, and what each means for a request."""

from __future__ import annotations

from offload.engine import ByModel, Engine, Named, Routing
from offload.messages import Privacy
from serve.http_errors import BadRequest

AUTO = "auto"  # whatever this endpoint chooses
AUTO_LOCAL = "auto-local"  # a promise that nothing leaves the device


def model_names(engine: Engine, models: ByModel | None = None) -> list[str]:
    """Return the names this endpoint answers to. Raises LinkError where the card is not known."""
    own = engine.names() if isinstance(engine, Named) else (engine.card().name, AUTO)
    return list(dict.fromkeys((*own, *(models.local_names() if models else ()))))


def engine_of(name: str, engine: Engine, models: ByModel | None) -> tuple[Engine, str]:
    """Return the engine that a name means, and the name by which that one knows it.

    Raises BadRequest, with status 404, for a name this endpoint does not answer to.
    """
    if models is not None and not _is_own(name, engine):
        found = models.engine_for(name)
        if found is not None:
            return found, AUTO
    check_name(name, engine, models)
    return engine, name


def _is_own(name: str, engine: Engine) -> bool:
    # An engine that chooses reads more aims out of a name than it can list, such as auto-q90.
    is_aim = isinstance(engine, Routing) and name.startswith(f"{AUTO}-")
    return is_aim or name in model_names(engine)


def check_name(name: str, engine: Engine, models: ByModel | None = None) -> None:
    """Raise BadRequest, with status 404, for a name this endpoint does not answer to."""
    if not _is_own(name, engine):
        names = model_names(engine, models)
        raise BadRequest(
            f"there is no model {name[:200]!r} here; there are {', '.join(names)}",
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
