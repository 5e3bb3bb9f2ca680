"""One request's course through the hybrid: who starts, who takes over, and who is left."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import msgspec

from offload.engine import Engine, Revealing
from offload.errors import CloudFailed, ContextLengthError, LinkError, Unsupported, Withheld
from offload.handover import Ahead, Stream, accepted, closing
from offload.messages import Delta, Finish, Request, Route, Side
from offload.outgoing import Outgoing
from offload.policy.dispatch import Outlook, Prices, dispatch
from offload.policy.gate import Verdict
from offload.policy.monitor import Monitor
from offload.policy.rule import Estimate, Expectation, Limit, Rule
from offload.policy.timing import Clock, Times

_ASKED_FAR = ("unsure", "hedged")


@dataclass(frozen=True, kw_only=True)
class Deciding:
    """What one request is decided by; the clocks are shared by all requests."""

    rule: Rule
    limit: Limit
    prices: Prices
    handover: Literal["replace", "continue"]
    near_clock: Clock
    far_clock: Clock


class Course:
    """Serves one request, and keeps what was seen on the way."""

    def __init__(
        self,
        edge: Engine,
        cloud: Engine | None,
        request: Request,
        verdict: Verdict,
        deciding: Deciding,
        consent: Callable[[Request], Awaitable[bool]],
    ) -> None:
        self._edge, self._cloud = edge, cloud
        self._request, self.verdict, self._by = request, verdict, deciding
        self._consent = consent
        self._began_s = time.monotonic()
        self._near_times, self._far_times = Times(), Times()
        self._expected = Expectation()
        self._monitor = self._watch()
        self._estimate: Estimate | None = None
        self._text = ""  # what the reader has before them

    async def run(self) -> AsyncIterator[Delta | Finish]:
        """Stream the answer of whichever side the policy chooses."""
        async with closing(self._started()) as source:
            async for item in source:
                if isinstance(item, Delta):
                    self._text = item.text if item.replaces else self._text + item.text
                yield item

    def _started(self) -> Stream:
        self._expect()
        if self.verdict.choice == "edge":
            return self._near(self.verdict.reason)
        if self.verdict.choice == "cloud":
            return self._far(self.verdict.reason)
        outlook = Outlook(
            expected=self._expected,
            near=self._near_times,
            far=self._far_times,
            deadline_s=self._request.deadline_s,
        )
        start, reason = dispatch(outlook, self._by.limit, self._by.rule.straight)
        if start == "near_only":
            return self._near(reason)
        if start == "far":
            return self._far(reason)
        return self._watched(hedged=start == "both")

    def _expect(self) -> None:
        self._expected = self._by.rule.expect(self._request.last_text())
        self._near_times = self._by.near_clock.near(self._request)
        self._far_times = self._by.far_clock.far(self._request, self._cloud)
        self._monitor = self._watch()

    def _watch(self) -> Monitor:
        wants_json = self._request.sampling.json_schema is not None
        return Monitor(self._by.rule, self._by.limit, self._expected, wants_json=wants_json)

    async def may_leave(self) -> bool:
        """Ask for consent where it is needed."""
        return not self.verdict.must_ask or await self._consent(self._request)

    async def _near(
        self, reason: str, *, replaces: bool = False, failure: str | None = None, prefix: str = ""
    ) -> Stream:
        request = self._request
        if prefix:
            request = msgspec.structs.replace(request, answer_prefix=prefix)
        with self._revealed():
            async with closing(self._timed(self._edge, request, self._by.near_clock)) as edge:
                async for item in edge:
                    if isinstance(item, Finish):
                        self._monitor.conclude()
                        yield self._routed(item, "edge", reason, failure)
                        continue
                    self._monitor.see(item)
                    yield msgspec.structs.replace(item, source="edge", replaces=replaces)
                    replaces = False

    async def _far(self, reason: str) -> Stream:
        """Ask the cloud only; near if it may not or cannot answer."""
        if not await self.may_leave():
            async for item in self._near("not_allowed"):
                yield item
            return
        try:
            async for item in self.cloud_stream(reason):
                yield item
        except LinkError as error:
            async for item in self._rescued(error):
                yield item

    async def cloud_stream(self, reason: str, prefix: str = "") -> Stream:
        """Stream the cloud's answer, behind `prefix` where one is given and the cloud can."""
        assert self._cloud is not None, "the gate lets nothing out without a cloud"
        if prefix:
            behind = msgspec.structs.replace(self._request, answer_prefix=prefix)
            try:
                head: Delta | None = Delta(text=prefix, source="cloud")
                async for item in self._cloud_items(behind, reason):
                    if head is not None:
                        yield head
                        head = None
                    yield item
                return
            except Unsupported:
                pass  # a cloud that cannot go on from another's text begins its own
        async for item in self._cloud_items(self._request, reason):
            yield item

    async def _cloud_items(self, request: Request, reason: str) -> Stream:
        assert self._cloud is not None, "the gate lets nothing out without a cloud"
        # The door by which it leaves writes down why.
        door = self._cloud.because(reason) if isinstance(self._cloud, Outgoing) else self._cloud
        async with closing(self._timed(door, request, self._by.far_clock)) as cloud:
            async for item in cloud:
                if isinstance(item, Delta):
                    yield msgspec.structs.replace(item, source="cloud")
                elif item.reason == "error":
                    raise CloudFailed(item.error or "the cloud could not finish; ask again")
                else:
                    yield self._routed(self._priced(item), "cloud", reason)

    async def _watched(self, *, hedged: bool) -> Stream:
        """Let the edge answer; when the monitor trips, ask the cloud while the edge goes on."""
        reason, ended = self.verdict.reason, None
        async with Ahead() as far:
            if hedged:
                reason = await self._ask(far, "hedged")
            with self._revealed():
                near = self._timed(self._edge, self._request, self._by.near_clock)
                async with closing(near) as edge:
                    async for item in edge:
                        if isinstance(item, Finish):
                            ended = item
                            break
                        self._monitor.see(item)
                        yield msgspec.structs.replace(item, source="edge")
                        if self._monitor.tripped and reason == self.verdict.reason:
                            reason = await self._ask(far, "unsure")
                        if far.arrived and reason == "unsure":
                            break
            if ended is not None:
                self._monitor.conclude()
                if self._monitor.tripped and reason == self.verdict.reason:
                    reason = await self._ask(far, "unsure")
            if reason == "unsure" or (reason == "hedged" and self._monitor.tripped):
                async for item in self._take_over(far, ended):
                    yield item
            elif ended is not None:
                yield self._routed(ended, "edge", self._kept(reason))

    async def _ask(self, far: Ahead, reason: str) -> str:
        """Ask the cloud in the background if the text may leave; return the reason code."""
        if not await self.may_leave():
            return "not_allowed"
        prefix = accepted(self._text) if self._by.handover == "continue" else ""
        far.start(self.cloud_stream(reason, prefix))
        return reason

    def _kept(self, reason: str) -> str:
        """Return why a finished near answer stands, where nothing else settled it."""
        estimate = self._monitor.estimate()
        if reason == "hedged":
            return "confident"
        if reason == self.verdict.reason and estimate.far is not None and estimate.right < 0.5:
            return "neither"
        return reason

    async def _take_over(self, far: Ahead, ended: Finish | None) -> Stream:
        """Stream the cloud's answer in place of the edge's, or keep the edge's if it fails."""
        shown = False
        try:
            async for item in far.items():
                if isinstance(item, Delta) and not shown:
                    item, shown = msgspec.structs.replace(item, replaces=True), True
                yield item
        except LinkError as error:
            if ended is not None and not shown:
                yield self._routed(ended, "edge", _code(error), str(error))
                return
            async for item in self._rescued(error):
                yield item

    async def _rescued(self, error: LinkError) -> Stream:
        """Finish near what the cloud left: from its text where that is wanted, else anew."""
        if self._by.handover == "continue" and (prefix := accepted(self._text)):
            cut = len(prefix) < len(self._text)
            try:
                async for item in self._near_behind(prefix, error, cut=cut):
                    yield item
                return
            except (Unsupported, ContextLengthError):
                pass  # nothing was shown yet: both are raised before the first Delta
        self._monitor = self._watch()
        why, replaces = str(error), bool(self._text)
        async for item in self._near(_code(error), replaces=replaces, failure=why):
            yield item

    async def _near_behind(self, prefix: str, error: LinkError, *, cut: bool) -> Stream:
        self._monitor = self._watch()
        stream = self._near(_code(error), failure=str(error), prefix=prefix)
        async with closing(stream) as near:
            async for item in near:
                if cut:  # the half word at the end of the cloud's text is taken back
                    yield Delta(text=prefix, source="cloud", replaces=True)
                    cut = False
                yield item

    async def _timed(self, engine: Engine, request: Request, clock: Clock) -> Stream:
        began, first_s = time.monotonic(), None
        async with closing(engine.generate(request)) as stream:
            async for item in stream:
                now = time.monotonic() - began
                first_s = now if first_s is None else first_s
                if isinstance(item, Finish) and item.reason in ("stop", "length"):
                    clock.note(request, item, first_s=first_s, whole_s=now)
                yield item

    @contextmanager
    def _revealed(self) -> Iterator[None]:
        if self._by.rule.watches_states and isinstance(self._edge, Revealing):
            with self._edge.watch(self._request.id, self._monitor.state):
                yield
        else:
            yield

    def _priced(self, finish: Finish) -> Finish:
        usage = finish.usage
        cost = usage.cost or self._by.prices.cost(usage.prompt_tokens, usage.completion_tokens)
        return msgspec.structs.replace(finish, usage=msgspec.structs.replace(usage, cost=cost))

    def _routed(
        self, finish: Finish, side: Side, reason: str, failure: str | None = None
    ) -> Finish:
        judged = self._monitor.num_tokens > 0 or self._monitor.concluded
        estimate = self._estimate = self._monitor.estimate() if judged else None
        expected = self._expected.gain
        route = Route(
            served_by=side,
            reason=reason,
            confidence=estimate.right if estimate else None,
            p_gain=expected if estimate is None else estimate.gain,
            failure=failure,
        )
        return msgspec.structs.replace(finish, route=route)

    @property
    def need(self) -> float:
        """Return by what this request is ranked among others that share a budget."""
        if self._estimate is not None:
            return self._estimate.need
        return self._expected.gain or 0.0

    def inputs(self) -> dict[str, float | str | bool | None]:
        """Return the figures that the policy saw, by name."""
        estimate, monitor = self._estimate, self._monitor
        return {
            "p_near": estimate.right if estimate else self._expected.near,
            "p_far": estimate.far if estimate else self._expected.far,
            "score": estimate.score if estimate else None,
            "least_logprob": monitor.least_logprob if monitor.num_tokens else None,
            "near_tokens": float(monitor.num_tokens),
            "near_finished": monitor.concluded,
            "flags": ",".join(monitor.flags),
            "max_need": _plain(self._by.limit.max_need),
            "min_score": _plain(self._by.limit.min_score),
            "near_whole_s": self._near_times.whole_s,
            "far_first_s": self._far_times.first_s,
            "far_whole_s": self._far_times.whole_s,
            "deadline_s": self._request.deadline_s,
            "handover": self._by.handover,
        }


def _code(error: LinkError) -> str:
    """Return why the cloud did not answer, as a reason code."""
    return "withheld" if isinstance(error, Withheld) else "cloud_failed"


def _plain(value: float) -> float | None:
    """Return a limit as JSON can hold it; one at infinity limits nothing."""
    return value if abs(value) < 1e300 else None
