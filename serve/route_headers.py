"""Who answered and why, and what was left unread, as response headers."""

from __future__ import annotations

import re
from collections.abc import Sequence

from offload.messages import Delta, Finish

Headers = list[tuple[bytes, bytes]]

# A code that came over a link is not trusted to be fit for a header.
_CODE = re.compile(r"[a-z0-9_]{1,64}")


def headers_of(items: Sequence[Delta | Finish]) -> Headers:
    """Return x-nearfar-served-by, -reason and -dropped-tokens, as far as these items tell them.

    A Delta knows who writes it; why is known at the end. Several choices are parted by commas.
    """
    routes = [item.route for item in items if isinstance(item, Finish) and item.route is not None]
    sides = [item.source for item in items if isinstance(item, Delta) and item.source is not None]
    headers: Headers = []
    for name, values in (
        ("x-nearfar-served-by", [*sides, *(route.served_by for route in routes)]),
        ("x-nearfar-reason", [route.reason for route in routes]),
    ):
        known = [value for value in dict.fromkeys(values) if _CODE.fullmatch(value)]
        if known:
            headers.append((name.encode(), ", ".join(known).encode()))
    dropped = sum(item.dropped_tokens for item in items if isinstance(item, Finish))
    if dropped:
        headers.append((b"x-nearfar-dropped-tokens", str(dropped).encode()))
    return headers
