"""Request log: a line for every HTTP request, with its id and no content; JSON where asked for."""

from __future__ import annotations

import json
import logging
import re
import time
import uuid
from collections.abc import Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.auth import tenant_of
from serve.metrics import Metrics

FIELDS = ("request_id", "method", "path", "status", "seconds", "tenant")


class JsonLines(logging.Formatter):
    """Log formatter: one JSON object a line; the fields of a request are keys of their own."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        entry |= {name: getattr(record, name) for name in FIELDS if hasattr(record, name)}
        if record.exc_info and record.exc_info[0] is not None:
            entry["error"] = record.exc_info[0].__name__  # its message may quote a prompt
        return json.dumps(entry)


def write_logs(form: str) -> None:
    """Write the log to stderr from INFO on: `json`, `text`, or not at all where it is empty."""
    if not form:
        return
    handler = logging.StreamHandler()
    plain = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(JsonLines() if form == "json" else plain)
    for room in ("serve", "offload", "cloud", "edge"):
        logger = logging.getLogger(room)
        logger.handlers = [handler]
        logger.setLevel(logging.INFO)
        logger.propagate = False


_log = logging.getLogger(__name__)

_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Trace:
    """Trace middleware: gives each request an id (or keeps the client's), counts and logs it."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics, paths: Collection[str]) -> None:
        self._app = app
        self._metrics = metrics
        self._paths = frozenset(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _ID.fullmatch(given) else uuid.uuid4().hex
        started_s, status = time.monotonic(), 499  # as nginx: the client left before any status

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        finally:
            # A path that is not ours is the client's own words, so it is neither logged nor kept.
            path = scope["path"] if scope["path"] in self._paths else "other"
            self._metrics.responses.labels(path, str(status)).inc()
            took_s = time.monotonic() - started_s
            fields = {
                "request_id": request_id,
                "method": scope["method"],
                "path": path,
                "status": status,
                "seconds": round(took_s, 6),
                "tenant": tenant_of(scope),
            }
            text = "request %(request_id)s %(method)s %(path)s %(status)d %(seconds).3fs"
            _log.info(text, fields, extra=fields)
