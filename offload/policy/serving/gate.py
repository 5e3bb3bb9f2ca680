"""Gate: the hard rules, asked before anything is sent; they may forbid a side, never guess.

Whether a text fits a model's context is no guess either, but only its engine can count tokens: it
refuses before the first word, and the hybrid asks the other side.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

from offload.egress.ledger.entries import DaySpending
from offload.egress.ledger.ledger import Ledger
from offload.egress.privacy.shareable_part import class_of, holds_private, part_that_leaves
from offload.egress.privacy.texts import texts_of
from offload.engine import Engine
from offload.messages import Privacy, Request
from offload.policy.serving.dispatch import MeasuredCloud

GateChoice = Literal["edge", "cloud", "open"]
_READ_PRESSURE_EVERY_S = 5.0


@dataclass(frozen=True, kw_only=True)
class DayLimits:
    """Limits of what may leave in one day; 0 is no limit."""

    cost: float = 0.0
    tokens: int = 0
    num_bytes: int = 0

    def passed(self, spent: DaySpending, num_bytes: int) -> str | None:
        """Return the reason code of a limit that sending so many bytes more would pass."""
        if 0 < self.cost <= spent.cost:
            return "day_cost"
        if 0 < self.tokens <= spent.tokens:
            return "day_tokens"
        if 0 < self.num_bytes < spent.num_bytes + num_bytes:
            return "day_bytes"
        return None


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """Conditions when a request arrives.

    `reachable` is False while every attempt would fail at once. `spare` lets a device under
    pressure (on battery, hot, short of memory) leave the work to the cloud.
    """

    offline: bool = False
    has_cloud: bool = True
    forced: Literal["edge", "cloud"] | None = None
    reachable: bool = True
    limits: DayLimits = field(default_factory=DayLimits)
    spent: DaySpending = field(default_factory=DaySpending)
    spare: bool = False
    on_battery: bool = False
    hot: bool = False
    short_of_memory: bool = False
    keeps_whole: bool = False  # a conversation with turns that must not leave

    @property
    def pressure(self) -> str | None:
        """Return the reason code of the pressure that the device should be spared for."""
        signs = {
            "short_of_memory": self.short_of_memory,
            "hot": self.hot,
            "on_battery": self.on_battery,
        }
        return next((code for code, holds in signs.items() if holds), None)


@dataclass(frozen=True, kw_only=True)
class GateVerdict:
    """Verdict of the gate: who may answer; "open" leaves it to the policy.

    `must_ask` wants a person's consent first.
    """

    choice: GateChoice
    reason: str
    must_ask: bool = False


def gate(request: Request, conditions: Conditions) -> GateVerdict:
    """Return who may answer this request; what keeps text on the device always wins."""
    kept = kept_near(request, conditions)
    if kept is not None:
        return GateVerdict(choice="edge", reason=kept)
    must_ask = request.privacy is Privacy.ASK
    if conditions.forced == "cloud":
        return GateVerdict(choice="cloud", reason="forced_cloud", must_ask=must_ask)
    if conditions.spare and conditions.pressure is not None and not must_ask:
        return GateVerdict(choice="cloud", reason=conditions.pressure)
    return GateVerdict(choice="open", reason="confident", must_ask=must_ask)


def kept_near(request: Request, conditions: Conditions) -> str | None:
    """Return why nothing of this request may leave, or None where it may."""
    if class_of(request) is Privacy.LOCAL_ONLY:
        return "local_only"
    if conditions.keeps_whole and holds_private(request):
        return "private_turns"
    if request.prompt_token_ids:
        return "token_ids"  # another model reads other words in them, and no rule can search them
    if request.suffix:
        return "fill_in"  # between two texts, as an editor asks at every key
    sampling = request.sampling
    if (sampling.stop_token_ids or sampling.logit_bias) and conditions.forced != "cloud":
        return "token_ids"
    if conditions.offline:
        return "offline"
    if conditions.forced == "edge":
        return "edge_only"
    if not conditions.has_cloud:
        return "no_cloud"
    # Who insists on the cloud is told by its own error why it cannot be reached.
    if not conditions.reachable and conditions.forced != "cloud":
        return "unreachable"
    leaves, _ = part_that_leaves(request)
    num_bytes = sum(len(text.encode()) for text in texts_of(leaves))
    allowed = request.budget.max_bytes_sent
    if allowed is not None and num_bytes > allowed:
        return "over_budget"
    return conditions.limits.passed(conditions.spent, num_bytes)


class PressureReading(Protocol):
    """Pressure on a device, as edge/device reads it; this room may not import that one."""

    @property
    def on_battery(self) -> bool: ...
    @property
    def hot(self) -> bool: ...
    @property
    def short_of_memory(self) -> bool: ...


class ConditionsReader:
    """Reader of the conditions at each request: link, spending, device; nothing is sent for it."""

    def __init__(
        self,
        cloud: Engine | None,
        *,
        ledger: Ledger | None = None,
        limits: Callable[[], DayLimits] = DayLimits,
        pressure: Callable[[], PressureReading] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cloud, self._ledger = cloud, ledger
        self._limits = limits
        self._read_pressure, self._clock = pressure, clock
        self._pressure: PressureReading | None = None
        self._read_at_s = -_READ_PRESSURE_EVERY_S

    def __call__(self) -> Conditions:
        """Return the conditions; without a pressure reader the device is never spared."""
        cloud, pressure = self._cloud, self._pressure_now()
        limits = self._limits()
        limited = self._ledger is not None and limits != DayLimits()
        return Conditions(
            reachable=cloud.snapshot().healthy if isinstance(cloud, MeasuredCloud) else True,
            limits=limits,
            spent=self._ledger.spent_today() if limited and self._ledger else DaySpending(),
            spare=pressure is not None,
            on_battery=pressure is not None and pressure.on_battery,
            hot=pressure is not None and pressure.hot,
            short_of_memory=pressure is not None and pressure.short_of_memory,
        )

    def _pressure_now(self) -> PressureReading | None:
        if self._read_pressure is None:
            return None
        now = self._clock()
        if now - self._read_at_s >= _READ_PRESSURE_EVERY_S:
            self._pressure, self._read_at_s = self._read_pressure(), now
        return self._pressure
