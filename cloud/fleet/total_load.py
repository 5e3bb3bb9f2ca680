"""The load of several engines as one."""

from __future__ import annotations

from collections.abc import Sequence

from offload.messages import EngineLoad


def sum_of(loads: Sequence[EngineLoad | None]) -> EngineLoad | None:
    """Return what the known loads come to; of their caches' use the mean. None where none is."""
    known = [load for load in loads if load is not None]
    if not known:
        return None
    return EngineLoad(
        num_running=sum(load.num_running for load in known),
        num_waiting=sum(load.num_waiting for load in known),
        kv_cache_usage=sum(load.kv_cache_usage for load in known) / len(known),
        prefix_cache_queries=sum(load.prefix_cache_queries for load in known),
        prefix_cache_hits=sum(load.prefix_cache_hits for load in known),
        num_preemptions=sum(load.num_preemptions for load in known),
    )
