"""Gate: the hard rules, asked before anything is sent; they may forbid a side, never guess.

Whether a text fits a model's context is no guess either, but only its engine can count tokens: it
refuses before the first word, and the hybrid asks the other side.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

from offload.egress.ledger.entries import Spent
from offload.egress.ledger.ledger import Ledger
from offload.egress.privacy.shareable_part import class_of, holds_private, part_that_leaves
from offload.egress.privacy.texts import texts_of
from offload.engine import Engine
from offload.messages import Privacy, Request
from offload.policy.serving.dispatch import MeasuredCloud

Choice = Literal["edge", "cloud", "open"]
_READ_STRAIN_EVERY_S = 5.0


@dataclass(frozen=True, kw_only=True)
class DayLimits:
    """What may leave in one day; 0 is no limit."""

    cost: float = 0.0
    tokens: int = 0
    num_bytes: int = 0

    def passed(self, spent: Spent, num_bytes: int) -> str | None:
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
    """What is true when a request arrives.

    `reachable` is False while every attempt would fail at once. `spare` lets a strained device
    (on battery, hot, short of memory) leave the work to the cloud.
    """

    offline: bool = False
    has_cloud: bool = True
    forced: Literal["edge", "cloud"] | None = None
    reachable: bool = True
    limits: DayLimits = field(default_factory=DayLimits)
    spent: Spent = field(default_factory=Spent)
    spare: bool = False
    on_battery: bool = False
    hot: bool = False
    short_of_memory: bool = False
    keeps_whole: bool = False  # a conversation with turns that must not leave

    @property
    def strain(self) -> str | None:
        """Return the reason code of what the device should be spared for."""
        signs = {
            "short_of_memory": self.short_of_memory,
            "hot": self.hot,
            "on_battery": self.on_battery,
        }
        return next((code for code, holds in signs.items() if holds), None)


@dataclass(frozen=True, kw_only=True)
class GateVerdict:
    """Who may answer; "open" leaves it to the policy. `must_ask` wants a person's consent first."""

    choice: Choice
    reason: str
    must_ask: bool = False


def gate(request: Request, standing: Conditions) -> GateVerdict:
    """Return who may answer this request; what keeps text on the device always wins."""
    kept = kept_near(request, standing)
    if kept is not None:
        return GateVerdict(choice="edge", reason=kept)
    must_ask = request.privacy is Privacy.ASK
    if standing.forced == "cloud":
        return GateVerdict(choice="cloud", reason="forced_cloud", must_ask=must_ask)
    if standing.spare and standing.strain is not None and not must_ask:
        return GateVerdict(choice="cloud", reason=standing.strain)
    return GateVerdict(choice="open", reason="confident", must_ask=must_ask)


def kept_near(request: Request, standing: Conditions) -> str | None:
    """Return why nothing of this request may leave, or None where it may."""
    if class_of(request) is Privacy.LOCAL_ONLY:
        return "local_only"
    if standing.keeps_whole and holds_private(request):
        return "private_turns"
    if request.prompt_token_ids:
        return "token_ids"  # another model reads other words in them, and no rule can search them
    if request.suffix:
        return "fill_in"  # between two texts, as an editor asks at every key
    asked = request.sampling
    if (asked.stop_token_ids or asked.logit_bias) and standing.forced != "cloud":
        return "token_ids"
    if standing.offline:
        return "offline"
    if standing.forced == "edge":
        return "edge_only"
    if not standing.has_cloud:
        return "no_cloud"
    # Who insists on the cloud is told by its own error why it cannot be reached.
    if not standing.reachable and standing.forced != "cloud":
        return "unreachable"
    leaves, _ = part_that_leaves(request)
    num_bytes = sum(len(text.encode()) for text in texts_of(leaves))
    allowed = request.budget.max_bytes_sent
    if allowed is not None and num_bytes > allowed:
        return "over_budget"
    return standing.limits.passed(standing.spent, num_bytes)


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
            reachable=cloud.standing().healthy if isinstance(cloud, MeasuredCloud) else True,
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
