"""Access control of the page's server: loopback, its own host name, and the token of the link.

A page elsewhere can make a browser send requests here (CSRF), or give this address a name of its
own (DNS rebinding). So every request must name loopback, one from a page must come from our own,
and whatever touches a conversation must carry the token. It travels in a header and is kept per
origin, since cookies are shared between all ports of a host.
"""

from __future__ import annotations

import functools
import hmac
import json
import secrets
import string
import sys
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backbone.files import kept_secret
from edge.assistant.language import chinese, speaks_chinese
from offload.documents.reader import MAX_FILE_BYTES

HOSTS = frozenset({"127.0.0.1", "localhost", "[::1]"})
MAX_BODY_BYTES = 4_000_000
DOCUMENTS_PATH = "/api/documents"  # takes a file whole
IMPORT_PATH = "/api/import"  # has a bound of its own
MIN_TOKEN_LEN = 32
_TOKEN_CHARS = frozenset(f"{string.ascii_letters}{string.digits}-_".encode())

_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
        "connect-src 'self'; manifest-src 'self'; worker-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types nearfar"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "cache-control": "no-cache",
}


class PageAccess:
    """Access middleware: 403 for a wrong host or origin, 401 without token, 413 for too much."""

    def __init__(self, app: ASGIApp, *, token: str, others: frozenset[str] = frozenset()) -> None:
        """`others` are paths below /api/ that are not the page's: their own app guards them."""
        assert token, "an empty token would let everybody in"
        self._app = app
        self._token = token
        self._others = others

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or refuse it; either way with the headers that bind the page."""

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        refusal = self._refusal(scope) if scope["type"] == "http" else None
        await (refusal or self._app)(scope, receive, guarded)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        refuse = functools.partial(_refuse, headers.get("accept-language", ""))
        host = headers.get("host", "")
        if _name(host) not in HOSTS:
            return refuse(403, "this server answers to the names of this machine only")
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return refuse(403, "another page asked; open the assistant itself")
        if not scope["path"].startswith("/api/") or scope["path"] in self._others:
            return None
        given = headers.get("authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(given.encode(), self._token.encode()):
            return refuse(401, "open the link that `nearfar assistant` printed")
        if not headers.get("content-length", "0").isdecimal() or "transfer-encoding" in headers:
            return refuse(411, "say how long the body is")
        bounds = {DOCUMENTS_PATH: MAX_FILE_BYTES, IMPORT_PATH: sys.maxsize}
        most = bounds.get(scope["path"], MAX_BODY_BYTES)
        if int(headers.get("content-length", "0")) > most:
            return refuse(413, f"at most {most:,} bytes can be sent at once")
        return None


def _name(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name.lower() if colon and port.isdecimal() else host.lower()


def _refuse(language: str, status: int, message: str) -> Response:
    message = (chinese(message) if speaks_chinese(language) else None) or message
    return Response(
        json.dumps({"error": message}), status_code=status, media_type="application/json"
    )


def kept_token(path: Path) -> str:
    """Return the token in the file; it is made once, private, so that a bookmark stays good.

    Raises SecretDamaged for one that is empty or cut short.
    """
    kept = kept_secret(path, lambda: secrets.token_urlsafe(24).encode(), _is_token)
    return kept.decode("ascii").strip()


def _is_token(kept: bytes) -> bool:
    token = kept.strip()
    return len(token) >= MIN_TOKEN_LEN and _TOKEN_CHARS.issuperset(token)
