"""What the gate is told beside the request: the link, what was spent today, the device's strain."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from offload.egress.ledger.entries import Spent
from offload.egress.ledger.ledger import Ledger
from offload.engine import Engine
from offload.policy.serving import timing
from offload.policy.serving.gate import Conditions, DayLimits

_READ_STRAIN_EVERY_S = 5.0


class Strained(Protocol):
    """What weighs on a device; edge/device reads it, and this room may not import that one."""

    @property
    def on_battery(self) -> bool: ...
    @property
    def hot(self) -> bool: ...
    @property
    def short_of_memory(self) -> bool: ...


class ConditionsReader:
    """Says how things stand, each time it is called; nothing is sent for it."""

    def __init__(
        self,
        cloud: Engine | None,
        *,
        ledger: Ledger | None = None,
        limits: Callable[[], DayLimits] = DayLimits,
        strain: Callable[[], Strained] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cloud, self._ledger = cloud, ledger
        self._limits = limits
        self._read_strain, self._clock = strain, clock
        self._strain: Strained | None = None
        self._read_at_s = -_READ_STRAIN_EVERY_S

    def __call__(self) -> Conditions:
        """Return the standing; `strain` not given means that the device is never spared."""
        cloud, strain = self._cloud, self._strain_now()
        limits = self._limits()
        limited = self._ledger is not None and limits != DayLimits()
        return Conditions(
            reachable=cloud.standing().healthy if isinstance(cloud, timing.MeasuredCloud) else True,
            limits=limits,
            spent=self._ledger.spent_today() if limited and self._ledger else Spent(),
            spare=strain is not None,
            on_battery=strain is not None and strain.on_battery,
            hot=strain is not None and strain.hot,
            short_of_memory=strain is not None and strain.short_of_memory,
        )

    def _strain_now(self) -> Strained | None:
        if self._read_strain is None:
            return None
        now = self._clock()
        if now - self._read_at_s >= _READ_STRAIN_EVERY_S:
            self._strain, self._read_at_s = self._read_strain(), now
        return self._strain
