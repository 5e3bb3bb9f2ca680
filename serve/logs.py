"""Logs as JSON lines, for those who collect them: what happened, to which request, no content."""

from __future__ import annotations

import json
import logging
import time

FIELDS = ("request_id", "method", "path", "status", "seconds", "tenant")


class JsonLines(logging.Formatter):
    """One JSON object a line; the fields of a request are keys of their own."""

    def format(self, record: logging.LogRecord) -> str:
        told = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        told |= {name: getattr(record, name) for name in FIELDS if hasattr(record, name)}
        if record.exc_info and record.exc_info[0] is not None:
            told["error"] = record.exc_info[0].__name__  # its message may quote a prompt
        return json.dumps(told)


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
