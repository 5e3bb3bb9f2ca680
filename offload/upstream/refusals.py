"""What an upstream server's HTTP status means for whoever asked."""

from __future__ import annotations

import math

import msgspec

from backbone.errors import NearfarError
from offload.errors import (
    CloudBusy,
    CloudFailed,
    CloudUnreachable,
    ContextLengthError,
    KeyRefused,
    RequestError,
)

_MOST_TOLD = 300  # characters of the server's own message
_TOO_LONG = ("context_length_exceeded", "maximum context length", "exceed context window")


class _Error(msgspec.Struct):
    message: str = ""
    code: str | int | None = None


class _Body(msgspec.Struct):
    error: _Error | str | None = None
    message: str = ""


def refusal(status: int, body: bytes, retry_after: str, url: str) -> NearfarError:
    """Return the error to raise for a reply that is no answer."""
    told = _told(body)
    if status in (400, 413, 422):
        if any(sign in body.decode(errors="replace") for sign in _TOO_LONG):
            # Not through __init__, which would write the message from numbers we do not have.
            return ContextLengthError.__new__(ContextLengthError, told)
        return RequestError(f"{url} refused the request: {told}")
    if status in (401, 403):
        return KeyRefused(f"{url} refused the API key (HTTP {status}); set NEARFAR_CLOUD_API_KEY")
    if status == 404:
        return CloudFailed(f"{url} has no such model or path: {told}; see its GET /v1/models")
    if status == 429:
        return CloudBusy(f"{url} has too much to do; ask again later", _seconds(retry_after))
    if status in (502, 503, 504):
        return CloudUnreachable(f"{url} is not ready (HTTP {status}); ask again later")
    return CloudFailed(f"{url} answered with HTTP {status}: {told}")


def _told(body: bytes) -> str:
    try:
        parsed = msgspec.json.decode(body, type=_Body)
    except (msgspec.DecodeError, RecursionError):
        return "no reason that can be read"
    error = parsed.error
    text = error if isinstance(error, str) else (error.message if error else parsed.message)
    return " ".join(text.split())[:_MOST_TOLD] or "no reason given"


def _seconds(retry_after: str) -> float:
    try:
        seconds = float(retry_after)
    except ValueError:  # a date, which clocks would have to agree on
        return 1.0
    return min(seconds, 3600.0) if math.isfinite(seconds) and seconds > 0 else 1.0
