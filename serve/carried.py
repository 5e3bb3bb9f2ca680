"""What a nearfar in front of this one carries along with a request, taken from its header."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from starlette.types import Scope

from offload.carried import HEADER, Carried, read_header
from offload.egress.privacy.shareable_part import strictest
from offload.messages import Request

_NAME = HEADER.encode()


def as_carried(requests: Sequence[Request], scope: Scope) -> tuple[Request, ...]:
    """Return the requests within the privacy class, deadline and budget that came with them.

    Raises RequestError for a header that makes no sense.
    """
    said = next((value for name, value in scope["headers"] if name == _NAME), None)
    if said is None:
        return tuple(requests)
    carried = read_header(said)
    return tuple(_within(request, carried) for request in requests)


def _within(request: Request, carried: Carried) -> Request:
    times = [each for each in (request.deadline_s, carried.deadline_s) if each is not None]
    return msgspec.structs.replace(
        request,
        privacy=strictest(request.privacy, carried.privacy),
        deadline_s=min(times, default=None),
        budget=carried.budget,
        via=carried.via,
    )
