"""Failures on the wire: an engine's error as a code and one line, and back to the exception."""

from __future__ import annotations

import logging

from backbone.errors import NearfarError
from offload.errors import (
    CloudBusy,
    CloudFailed,
    CloudStopped,
    ContextLengthError,
    EngineStopped,
    KeyRefused,
    Overloaded,
    RequestError,
    Unsupported,
)
from offload.link.message_bodies import Failure

_log = logging.getLogger(__name__)

REQUEST = "request"  # the request makes no sense
CONTEXT = "context"  # its prompt is longer than the model's context
UNSUPPORTED = "unsupported"  # this engine has no way to serve it
BUSY = "busy"  # too many requests at once
LIMIT = "limit"  # this device has used what it may
KEY = "key"  # this key may not do that
GONE = "gone"  # the answer is no longer held, and the request must not run again
STOPPED = "stopped"  # the engine is closed or broken
FAILED = "failed"  # the engine broke on this request

_KINDS: dict[str, type[NearfarError]] = {
    REQUEST: RequestError,
    UNSUPPORTED: Unsupported,
    KEY: KeyRefused,
    STOPPED: CloudStopped,
}


def to_failure(error: Exception) -> Failure:
    """Return what to tell the device; of an error that is ours, only its kind leaves the cloud."""
    if isinstance(error, ContextLengthError):
        return Failure(CONTEXT, str(error))
    if isinstance(error, Unsupported):
        return Failure(UNSUPPORTED, str(error))
    if isinstance(error, RequestError):
        return Failure(REQUEST, str(error))
    if isinstance(error, Overloaded):
        return Failure(BUSY, str(error), error.retry_after_s)
    if isinstance(error, EngineStopped):
        return Failure(STOPPED, str(error))
    if isinstance(error, NearfarError):
        return Failure(FAILED, str(error))
    # The message of a foreign error may quote the prompt, so it goes neither out nor into the log.
    kind, trace = type(error).__name__, error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else "unknown place"
    _log.error("the engine raised %s at %s", kind, where)
    return Failure(
        FAILED, f"the cloud's engine broke ({kind}); see the log of `nearfar cloud serve`"
    )


def to_error(failure: Failure) -> NearfarError:
    """Return the exception to raise on the device."""
    if failure.code == CONTEXT:
        # Not through __init__, which would write the message from numbers that we do not have.
        return ContextLengthError.__new__(ContextLengthError, failure.message)
    if failure.code in (BUSY, LIMIT):
        return CloudBusy(failure.message, failure.retry_after_s)
    return _KINDS.get(failure.code, CloudFailed)(failure.message)
