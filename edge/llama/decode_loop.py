"""The decode loop: one token after another, several at once where a draft proves right."""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import NamedTuple

from edge.device.thread_tuner import ThreadTuner
from edge.llama.kv_cache import KvCache
from edge.llama.sampler import Sampler
from engine.drafts import Drafter
from engine.window import Pins
from offload.messages import Confidence


class ChosenToken(NamedTuple):
    """A token; `row` of the cache's logits is what it was chosen from, until the next is asked."""

    token: int
    confidence: Confidence
    row: int


def steps(
    cache: KvCache, sampler: Sampler, pins: Pins, pace: ThreadTuner, drafter: Drafter | None = None
) -> Generator[ChosenToken, None, None]:
    """Yield tokens chosen after what the cache holds, until it has no more room.

    Each token is drawn from the logits it would have had alone: a draft only saves the step.
    What a schema forces comes as a draft that is always right. The iterator may be left at any
    time; drafted tokens that were not taken leave the cache.
    """
    chosen = ChosenToken(*sampler.next(cache.logits(0)), 0)
    while True:
        if drafter is not None:
            drafter.add(chosen.token)
        yield chosen
        forced = sampler.forced[: max(0, min(cache.window.free - 1, cache.max_forced))]
        draft = forced or _draft(cache, drafter)
        started = time.perf_counter()
        with pace.step(plain=not draft):
            if not cache.append([chosen.token, *draft], pins):
                return
        seconds = time.perf_counter() - started
        accepted = 0
        try:
            while True:
                chosen = ChosenToken(*sampler.next(cache.logits(accepted)), accepted)
                if accepted == len(draft) or chosen.token != draft[accepted]:
                    break
                accepted += 1
                if drafter is not None:
                    drafter.add(chosen.token)
                yield chosen
        finally:
            cache.rollback(len(draft) - accepted)
        if drafter is not None and not forced:
            drafter.judge(len(draft), accepted, seconds)


def _draft(cache: KvCache, drafter: Drafter | None) -> list[int]:
    if drafter is None:
        return []
    return drafter.propose(min(cache.window.free - 1, cache.max_draft))
