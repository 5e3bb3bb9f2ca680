"""Errors between a request and its answer; the tree is drawn in backbone/errors.py."""

from __future__ import annotations

import math

from backbone.errors import NearfarError
from backbone.errors import RequestError as RequestError  # which the network's own code raises, too

_MAX_WAIT_S = 86_400.0  # until the budgets of a new day


class ContextLengthError(RequestError):
    """A prompt longer than the model's context."""

    def __init__(self, length: int | str, max_model_len: int) -> None:
        """`length` is in tokens, or says in what."""
        # The first words are OpenAI's, by which clients know this error and shorten the prompt.
        super().__init__(
            f"This model's maximum context length is {max_model_len} tokens, and the prompt has "
            f"{length}; shorten it, or choose a model with a longer context"
        )


class Unsupported(RequestError):
    """A request that makes sense, and that this engine has no way to serve."""


class Overloaded(NearfarError):
    """The engine has as much to do as it may; the same request may be sent again later."""

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        # Another machine may have said it, and a client is told it in whole seconds.
        known_s = retry_after_s if math.isfinite(retry_after_s) else 1.0
        self.retry_after_s = min(max(known_s, 0.0), _MAX_WAIT_S)


class EngineStopped(NearfarError):
    """The engine is closed or broken: no fault of the request."""


class SettingsError(NearfarError):
    """A setting that is unknown or out of range; names the field, the value, what is allowed."""


class LinkError(NearfarError):
    """The cloud cannot be used for this request; `bytes_sent` of it had left the device by then.

    None where nobody could count them.
    """

    bytes_sent: int | None = 0


class CloudUnreachable(LinkError):
    """Nothing answers at the cloud's address."""


class KeyRefused(LinkError):
    """The cloud does not know this device's key, or is not the cloud we hold the key of."""


class CloudFailed(LinkError):
    """The cloud took the request and could not finish it."""


class ChainRefused(CloudFailed):
    """A request that came back to where it was passed on, or was passed on too often."""


class CloudStopped(CloudFailed, EngineStopped):
    """The cloud can be reached, and its engine is closed or broken."""


class CloudBusy(LinkError, Overloaded):
    """The cloud has as much to do as it may, or this device has used what it may use there."""


class EgressBlocked(LinkError):
    """Refusal at the egress door: what is in the text may not leave the device."""


class EgressNotPermitted(EgressBlocked):
    """Refusal at the egress door for now: the settings, the day's budget, no consent.

    `reason` is the code of offload/reasons.py.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason
