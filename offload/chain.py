"""Chain of machines, such as laptop, desktop and GPU: what goes along with a request.

Each place names itself in what it passes on, so that no request goes round for ever, and the time
that is left goes on with it. The end of an answer tells all the places beyond the first.
"""

from __future__ import annotations

import time
import uuid

import msgspec

from offload.errors import ChainRefused
from offload.messages import MAX_HOPS, Hop, Request, Route, Side
from offload.reasons import sentence

_LEAST_S = 0.001  # of a deadline that has passed: what is asked then says so itself
_WHO: dict[Side, str] = {"edge": "near", "cloud": "far"}


class Waypoint:
    """A place on the way of requests; its name is drawn anew by each process, and tells nothing."""

    def __init__(self) -> None:
        self._name = uuid.uuid4().hex

    def require_new(self, request: Request) -> None:
        """Raise ChainRefused for a request that was here before."""
        if self._name in request.via:
            raise ChainRefused(
                "the question came back to where it was passed on: the far models lead round in a "
                "circle; change cloud.url of one of them"
            )

    def onward(self, request: Request) -> Request:
        """Return a request as it is passed on from here. Raises ChainRefused."""
        self.require_new(request)
        if len(request.via) >= MAX_HOPS:
            raise ChainRefused(
                f"the question was passed on {MAX_HOPS} times already, and is not passed on again; "
                "let one of the far models answer by itself"
            )
        return msgspec.structs.replace(request, via=(*request.via, self._name))


def with_time_left(request: Request, since_s: float) -> Request:
    """Return a request that was received at `since_s` of the monotonic clock as it is asked now."""
    if request.deadline_s is None:
        return request
    left_s = request.deadline_s - (time.monotonic() - since_s)
    return msgspec.structs.replace(request, deadline_s=max(_LEAST_S, left_s))


def onward_of(far: Route | None) -> tuple[Hop, ...]:
    """Return the places beyond, of an answer whose far side routed it; () where that only ran it.

    An engine by itself says no model's name in a Route: only who chooses between two does.
    """
    if far is None or not far.model:
        return ()
    hop = Hop(served_by=far.served_by, reason=far.reason, model=far.model)
    return (hop, *far.onward)[:MAX_HOPS]


def onward_words(route: Route) -> list[str]:
    """Return a line for each place beyond the far side that was asked: who wrote there, why."""
    return [f"there {_WHO[hop.served_by]}: {sentence(hop.reason)}" for hop in route.onward]
