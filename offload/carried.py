"""What a request over HTTP carries on a chain of machines, which OpenAI's body has no words for.

Between two nearfar it goes in a header, since an older one reads over that, and would refuse a
field of the body. It can only narrow what the server itself allows.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from backbone.errors import cause
from offload.errors import RequestError
from offload.messages import MAX_HOPS, Budget, Privacy, Request

HEADER = "x-nearfar-carried"
_Via = Annotated[tuple[Annotated[str, Meta(max_length=64)], ...], Meta(max_length=MAX_HOPS)]


class Carried(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Privacy class, deadline in seconds from now, budget and the places passed of a request."""

    privacy: Privacy = Privacy.CLOUD_OK
    deadline_s: Annotated[float, Meta(ge=0.001, le=86_400.0)] | None = None
    budget: Budget = Budget()
    via: _Via = ()


def header_of(request: Request) -> str:
    """Return the header's value for a request."""
    carried = Carried(
        privacy=request.privacy,
        deadline_s=request.deadline_s,
        budget=request.budget,
        via=request.via,
    )
    return msgspec.json.encode(carried).decode()


def read_header(value: bytes) -> Carried:
    """Return what a header says; unknown fields pass, a newer device may send them.

    Raises RequestError.
    """
    try:
        return msgspec.json.decode(value, type=Carried)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError(
            f"the header {HEADER} makes no sense ({cause(error)}); leave it out"
        ) from None
