"""Two engines and a policy, as one Engine: near by default, far when that pays.

The reader sees one stream. Where the cloud takes over, its first Delta carries `replaces`; where
the cloud fails, the edge's answer stands, or is begun anew in the same way.
"""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Literal, cast

import msgspec

from offload.engine import Engine
from offload.errors import CloudFailed, ContextLengthError, LinkError
from offload.handover import Ahead, Stream
from offload.messages import Delta, Finish, ModelCard, Request, Route, Side
from offload.policy.gate import Standing, Verdict, gate
from offload.policy.monitor import Monitor, Threshold

Consent = Callable[[Request], Awaitable[bool]]


async def _refuse(_: Request) -> bool:
    return False


@dataclass(frozen=True, kw_only=True)
class HybridOptions:
    """How the hybrid decides; `forced` sends all to one side, within the gate's rules."""

    threshold: Threshold = field(default_factory=Threshold)
    offline: bool = False
    forced: Literal["edge", "cloud"] | None = None


class Hybrid:
    """Answers near, and far when the near model is unsure and the text may leave.

    `consent` is asked before a request of class `ask` leaves; without one, it never does.
    """

    def __init__(
        self,
        edge: Engine,
        cloud: Engine | None,
        *,
        options: HybridOptions | None = None,
        consent: Consent = _refuse,
    ) -> None:
        self.edge = edge
        self.cloud = cloud
        self._options = options or HybridOptions()
        self._consent = consent

    def card(self) -> ModelCard:
        """Return the edge model's card: it is the one that is always there."""
        return self.edge.card()

    def may_replace(self, request: Request) -> bool:
        """Whether text of this request's answer may be withdrawn later; see Choosing."""
        return gate(request, self._standing()).choice != "edge"

    def forced(self, side: Side) -> Hybrid:
        """Return the same two engines with one side demanded, within the gate's rules.

        For one request that a person wants answered elsewhere; close only the original.
        """
        twin = copy.copy(self)
        twin._options = replace(self._options, forced=side)
        return twin

    async def aclose(self) -> None:
        """Close both engines."""
        await self.edge.aclose()
        if self.cloud is not None:
            await self.cloud.aclose()

    async def generate(self, request: Request) -> AsyncIterator[Delta | Finish]:
        """Stream the answer of whichever side the policy chooses."""
        verdict = gate(request, self._standing())
        source = self._start(request, verdict)
        async with _closing(source):
            try:
                async for item in source:
                    yield item
                return
            except ContextLengthError:
                if verdict.choice != "open" or not await self._may_leave(request, verdict):
                    raise
        async with _closing(self._cloud_stream(request, "too_long", None)) as far:
            async for item in far:
                yield item

    def _standing(self) -> Standing:
        options = self._options
        return Standing(
            offline=options.offline, has_cloud=self.cloud is not None, forced=options.forced
        )

    def _start(self, request: Request, verdict: Verdict) -> Stream:
        if verdict.choice == "edge":
            return self._near(request, verdict.reason)
        if verdict.choice == "cloud":
            return self._far(request, verdict)
        return self._watched(request, verdict)

    async def _may_leave(self, request: Request, verdict: Verdict) -> bool:
        return not verdict.must_ask or await self._consent(request)

    async def _near(
        self, request: Request, reason: str, *, replaces: bool = False, failure: str | None = None
    ) -> Stream:
        monitor = Monitor(self._options.threshold)
        async with _closing(self.edge.generate(request)) as edge:
            async for item in edge:
                if isinstance(item, Finish):
                    yield _routed(item, "edge", reason, monitor.confidence, failure)
                    continue
                monitor.see(item.confidence)
                yield msgspec.structs.replace(item, source="edge", replaces=replaces)
                replaces = False

    async def _far(self, request: Request, verdict: Verdict) -> Stream:
        """Ask the cloud only; near if it may not or cannot answer."""
        reason, shown, failure = "not_allowed", False, None
        if await self._may_leave(request, verdict):
            try:
                async for item in self._cloud_stream(request, verdict.reason, None):
                    shown = True
                    yield item
                return
            except LinkError as error:
                reason, failure = "cloud_failed", str(error)
        async for item in self._near(request, reason, replaces=shown, failure=failure):
            yield item

    async def _cloud_stream(self, request: Request, reason: str, sure: float | None) -> Stream:
        assert self.cloud is not None, "the gate lets nothing out without a cloud"
        async with _closing(self.cloud.generate(request)) as cloud:
            async for item in cloud:
                if isinstance(item, Delta):
                    yield msgspec.structs.replace(item, source="cloud")
                elif item.reason == "error":
                    raise CloudFailed(item.error or "the cloud could not finish; ask again")
                else:
                    yield _routed(item, "cloud", reason, sure)

    async def _watched(self, request: Request, verdict: Verdict) -> Stream:
        """Let the edge answer; when the monitor trips, ask the cloud while the edge goes on."""
        monitor, reason, ended = Monitor(self._options.threshold), verdict.reason, None
        async with Ahead() as far:
            async with _closing(self.edge.generate(request)) as edge:
                async for item in edge:
                    if isinstance(item, Finish):
                        ended = item
                        break
                    monitor.see(item.confidence)
                    yield msgspec.structs.replace(item, source="edge")
                    if monitor.tripped and reason == verdict.reason:
                        reason = await self._ask(request, verdict, far, monitor)
                    if far.arrived:
                        break
            if reason == "unsure":
                async for item in self._take_over(request, far, ended, monitor):
                    yield item
            elif ended is not None:
                yield _routed(ended, "edge", reason, monitor.confidence)

    async def _ask(self, request: Request, verdict: Verdict, far: Ahead, monitor: Monitor) -> str:
        """Ask the cloud in the background if the text may leave; return the reason code."""
        if not await self._may_leave(request, verdict):
            return "not_allowed"
        far.start(self._cloud_stream(request, "unsure", monitor.confidence))
        return "unsure"

    async def _take_over(
        self, request: Request, far: Ahead, ended: Finish | None, monitor: Monitor
    ) -> Stream:
        """Stream the cloud's answer in place of the edge's, or keep the edge's if it fails."""
        shown = False
        try:
            async for item in far.items():
                if isinstance(item, Delta) and not shown:
                    item, shown = msgspec.structs.replace(item, replaces=True), True
                yield item
        except LinkError as error:
            why = str(error)
            if ended is not None and not shown:
                yield _routed(ended, "edge", "cloud_failed", monitor.confidence, why)
                return
            async for item in self._near(request, "cloud_failed", replaces=True, failure=why):
                yield item


def _closing(stream: Stream) -> aclosing[_Closable]:
    """Close the stream when the block is left; every engine's iterator is an async generator."""
    return aclosing(cast("_Closable", stream))


class _Closable(AsyncIterator[Delta | Finish]):
    async def aclose(self) -> None: ...


def _routed(
    finish: Finish, side: Side, reason: str, sure: float | None, failure: str | None = None
) -> Finish:
    route = Route(served_by=side, reason=reason, confidence=sure, failure=failure)
    return msgspec.structs.replace(finish, route=route)
