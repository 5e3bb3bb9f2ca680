"""HTTP errors: the status of an error, and its body in OpenAI's shape."""

from __future__ import annotations

import logging
import math
from http import HTTPStatus

import msgspec

from backbone.errors import NearfarError, TemplateRefusal
from offload.errors import (
    ChainRefused,
    CloudUnreachable,
    ContextLengthError,
    EngineStopped,
    LinkError,
    Overloaded,
    RequestError,
)

_log = logging.getLogger(__name__)


class BadRequest(RequestError):
    """A request refused by the HTTP face itself; `param` names the field."""

    def __init__(
        self, message: str, *, param: str | None = None, code: str | None = None, status: int = 400
    ) -> None:
        super().__init__(message)
        self.param = param
        self.code = code
        self.status = status


class EngineBroke(NearfarError):
    """An engine that ended an answer with an error, or without an end."""


class TooLate(NearfarError):
    """An answer that was not done in time."""

    def __init__(self, timeout_s: float) -> None:
        super().__init__(
            f"the answer was not done within {timeout_s:g} s; ask for fewer tokens, "
            "or raise serve.request_timeout_s"
        )


class TooMany(Overloaded):
    """A client that asks for more than it may, or than there is room to queue; its own doing."""


class Problem(msgspec.Struct, frozen=True):
    """Error object of OpenAI's API."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(msgspec.Struct, frozen=True):
    """Error body: what every failed request gets."""

    error: Problem


def describe(error: Exception) -> tuple[int, Problem]:
    """Return the HTTP status and the problem; of an error that is not ours, only its kind."""
    text = str(error)
    if isinstance(error, BadRequest):
        return error.status, Problem(text, "invalid_request_error", error.param, error.code)
    if isinstance(error, ContextLengthError):
        return 400, Problem(text, "invalid_request_error", code="context_length_exceeded")
    if isinstance(error, RequestError):
        return 400, Problem(text, "invalid_request_error")
    if isinstance(error, TooMany):
        return 429, Problem(text, "rate_limit_error", code="rate_limit_exceeded")
    if isinstance(error, Overloaded):
        return 503, Problem(text, "server_error", code="overloaded")
    if isinstance(error, EngineStopped):
        return 503, Problem(text, "server_error", code="engine_stopped")
    if isinstance(error, ChainRefused):
        return 508, Problem(text, "server_error", code="loop")  # Loop Detected
    if isinstance(error, LinkError):
        status = 503 if isinstance(error, CloudUnreachable) else 502
        return status, Problem(text, "server_error", code="cloud_failed")
    if isinstance(error, TooLate):
        return 504, Problem(text, "server_error", code="timeout")
    if isinstance(error, TemplateRefusal):
        return 400, Problem(text, "invalid_request_error", "messages")
    if isinstance(error, NearfarError):
        return 500, Problem(text, "server_error")
    return 500, _foreign(error)


def retry_after_s(error: Exception) -> int | None:
    """Return the whole seconds after which it is worth asking again, or None where it is not."""
    if isinstance(error, Overloaded):
        return max(1, math.ceil(error.retry_after_s))
    return 1 if isinstance(error, CloudUnreachable | EngineStopped) else None


def of_status(status: int) -> Problem:
    """Return the problem of a bare HTTP status, such as an unknown path's 404."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return Problem(f"{HTTPStatus(status).phrase}; see GET /openapi.json for what is here", kind)


def body_of(problem: Problem) -> bytes:
    """Return the JSON of an error."""
    return msgspec.json.encode(ErrorBody(problem))


def _foreign(error: Exception) -> Problem:
    # The message of a foreign error may quote the prompt, so it goes neither out nor into the log.
    kind, trace = type(error).__name__, error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else "unknown place"
    _log.error("the engine raised %s at %s", kind, where)
    return Problem(f"the engine broke ({kind}); see the log of the server", "server_error")
