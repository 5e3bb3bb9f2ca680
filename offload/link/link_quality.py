"""Link quality: round trips, loss, throughput and clocks, measured now."""

from __future__ import annotations

import asyncio
import math
import os
import time
from dataclasses import dataclass

from offload.link.client import CloudLink

_PADDING_BYTES = 32 * 1024


@dataclass(frozen=True, kw_only=True)
class LinkMeasure:
    """The figures of one measurement; `loss` is the share of pings that no answer came to in time.

    `bytes_per_s` is that of both directions at once, each carrying as much; `clock_offset_s` is
    what to add to our wall clock to get the cloud's.
    """

    rtt_p50_s: float | None
    rtt_p95_s: float | None
    rtt_p99_s: float | None
    loss: float
    bytes_per_s: float | None
    clock_offset_s: float | None


async def measure(
    link: CloudLink, *, num_pings: int = 20, num_large: int = 16, timeout_s: float = 1.0
) -> LinkMeasure:
    """Ping one after the other, then with large messages all at once. Raises LinkError."""
    trips = [await _ping(link, b"", timeout_s) for _ in range(num_pings)]
    heard = sorted(trip for trip in trips if trip is not None)
    return LinkMeasure(
        rtt_p50_s=_quantile(heard, 0.5),
        rtt_p95_s=_quantile(heard, 0.95),
        rtt_p99_s=_quantile(heard, 0.99),
        loss=1 - len(heard) / num_pings,
        bytes_per_s=await _throughput(link, num_large, timeout_s),
        clock_offset_s=link.health().clock_offset_s,
    )


def _quantile(ordered: list[float], share: float) -> float | None:
    """Return the least value that at least this share of all do not exceed."""
    return ordered[math.ceil(share * len(ordered)) - 1] if ordered else None


async def _throughput(link: CloudLink, num_large: int, timeout_s: float) -> float | None:
    padding = os.urandom(_PADDING_BYTES)  # so that nothing on the way can compress it
    began_s = time.monotonic()
    # A slow link needs longer for all of them than for one.
    pings = (_ping(link, padding, num_large * timeout_s) for _ in range(num_large))
    heard = [trip for trip in await asyncio.gather(*pings) if trip is not None]
    if not heard:
        return None
    return 2 * len(heard) * _PADDING_BYTES / (time.monotonic() - began_s)


async def _ping(link: CloudLink, padding: bytes, timeout_s: float) -> float | None:
    try:
        return await link.ping(padding=padding, timeout_s=timeout_s)
    except asyncio.TimeoutError:
        return None
