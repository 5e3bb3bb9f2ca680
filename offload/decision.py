"""One decision of the policy, as it is handed to whoever keeps a record of it."""

from __future__ import annotations

from typing import Protocol

from offload.messages import Finish, Request, Word


class Decision(Word, frozen=True, kw_only=True, omit_defaults=True):
    """What was decided on one request and what came of it; it holds no text of the request.

    `inputs` are the figures that the policy saw, by name (confidence, rtt_s, p_gain, ...).
    `propensity` is the probability with which this policy chose the side it chose; 1 where
    nothing was drawn (policy.exploration), so that other policies can be valued by what is kept.
    """

    request_id: str
    began_at: float  # seconds since the epoch
    inputs: dict[str, float | str | bool | None]
    propensity: float = 1.0
    finish: Finish


class Recorder(Protocol):
    """Keeps decisions; it must never raise into an answer, and never block for long."""

    def record(self, request: Request, decision: Decision) -> None:
        """Keep one decision; called once for each answer, when it ends."""
        ...

    def close(self) -> None:
        """Keep what is not yet kept; nothing is recorded afterwards."""
        ...
