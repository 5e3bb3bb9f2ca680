"""Authentication: the host names a server answers to, and the API keys it accepts.

A page in a browser may reach a server on this machine by a name of its own choosing (DNS
rebinding); so a server on loopback answers only to the names of loopback.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from offload.asker import asked_by
from serve.http_errors import Problem, body_of
from serve.options import ServeOptions, is_loopback, split_key

ANYONE = "anyone"
_TENANT = "nearfar.tenant"
OPEN_PATHS = frozenset({"/health", "/ready"})

# uvicorn bounds a head that comes in pieces; one that comes at once is bounded here.
MAX_HEADER_BYTES = 32 * 1024

_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[^:\[\]]+)(:[0-9]{1,5})?")


class Authentication:
    """Authentication middleware: 431 for a large head, 403 for a wrong Host, 401 for a bad key."""

    def __init__(self, app: ASGIApp, *, options: ServeOptions) -> None:
        self._app = app
        self._keys = Keys(options.api_keys)
        self._hosts = Hosts(options)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        # "http:" keeps a key's name apart from the public keys by which the link names devices.
        with asked_by(f"http:{tenant_of(scope)}"):
            await (refusal or self._app)(scope, receive, send)

    def _refusal(self, scope: Scope) -> Response | None:
        if _head_bytes(scope) > MAX_HEADER_BYTES:
            message = f"the request's head has more than {MAX_HEADER_BYTES} bytes; shorten it"
            return _refuse(431, message, "head_too_large")
        headers = Headers(scope=scope)
        if not self._hosts.allow(headers.get("host", "")):
            message = (
                "this server does not go by that name; call it by its own, or add the name to "
            )
            return _refuse(403, f"{message}serve.allowed_hosts", "host_not_allowed")
        tenant = self._keys.owner(headers.get("authorization", ""))
        if tenant is not None or scope["path"] in OPEN_PATHS:
            scope[_TENANT] = tenant or ""
            return None
        message = "an API key is needed; send the header Authorization: Bearer KEY"
        refusal = _refuse(401, message, "invalid_api_key")
        refusal.headers["www-authenticate"] = "Bearer"
        return refusal


def tenant_of(scope: Scope) -> str:
    """Return the name of the key that a request came in with."""
    return str(scope.get(_TENANT, ""))


def scope_of(tenant: str, path: str) -> Scope:
    """Return the scope of a request that the server makes itself, for a tenant."""
    return {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "path": path,
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
        _TENANT: tenant,
    }


class Keys:
    """API keys that are accepted; without any everybody is.

    `alice:KEY` is KEY under the name alice, by which limits and metrics know it; several keys may
    have one name. A key without a name goes by the first digits of its digest.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self._known = [(_digest(key), name) for name, key in map(split_key, keys)]

    def owner(self, authorization: str) -> str | None:
        """Return whose key an Authorization header holds, or None, in a time that tells nothing.

        Where there are no keys, everybody is `anyone`.
        """
        scheme, _, key = authorization.partition(" ")
        given = _digest(key.strip())
        # Every key is compared, and digests, so that neither its place nor its length shows.
        owners = [name for known, name in self._known if hmac.compare_digest(given, known)]
        if not self._known:
            return ANYONE
        return owners[0] if owners and scheme.lower() == "bearer" else None


class Hosts:
    """Host names that this server answers to."""

    def __init__(self, options: ServeOptions) -> None:
        self._any = not options.is_loopback and not options.allowed_hosts
        self._names = {name.lower() for name in (*options.allowed_hosts, options.host)}

    def allow(self, host: str) -> bool:
        """Whether a Host header, its port aside, is one of the names."""
        match = _HOST.fullmatch(host)
        name = match["name"].lower() if match else ""
        return self._any or name in self._names or (bool(name) and is_loopback(name))


def _head_bytes(scope: Scope) -> int:
    fields = sum(len(name) + len(value) for name, value in scope["headers"])
    return fields + len(scope["path"]) + len(scope["query_string"])


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _refuse(status: int, message: str, code: str) -> Response:
    problem = Problem(message, "invalid_request_error", code=code)
    return Response(body_of(problem), status_code=status, media_type="application/json")
