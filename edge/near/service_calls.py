"""Calls of the running service: which models it holds, and to let go of one."""

from __future__ import annotations

import contextlib
import http.client
import json
import urllib.error
import urllib.request
from typing import Any

from backbone.errors import NearfarError, cause
from offload.config.places import places
from offload.config.running_service import Service, find

_TIMEOUT_S = 60.0


class NoService(NearfarError):
    """`nearfar up` does not run, or does not answer."""


def models_in_memory() -> list[dict[str, Any]]:
    """Return the models in the service's memory, as ollama's /api/ps tells them.

    Raises NoService.
    """
    found: list[dict[str, Any]] = _called(_running(), "/api/ps", None)["models"]
    return found


def unload(model: str) -> None:
    """Take a model out of memory. Raises NoService, also where there is none of this name."""
    _called(_running(), "/api/generate", {"model": model, "keep_alive": 0})


def _running() -> Service:
    service = find(places())
    if service is None:
        raise NoService(
            "`nearfar up` does not run, so no model stays in memory; start it with `nearfar up`"
        )
    return service


def _called(service: Service, path: str, body: dict[str, Any] | None) -> Any:
    headers = {"Authorization": f"Bearer {service.token}", "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(service.url + path, data=data, headers=headers)
    # No proxy of the environment may stand between: it is this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with contextlib.closing(opener.open(request, timeout=_TIMEOUT_S)) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        with contextlib.closing(error):
            raise NoService(_told(error)) from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise NoService(f"`nearfar up` does not answer ({cause(error)}); start it again") from None


def _told(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(error)["error"])
    except (ValueError, KeyError, TypeError):
        return f"`nearfar up` refuses (HTTP {error.code}); start it again"
