"""Escalation of one request: which side starts, which takes over, and which is left."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import aclosing, contextmanager

import msgspec

from offload.chain import with_time_left
from offload.egress.door import EgressEngine
from offload.egress.permission import AskConsent, ConsentOnce, EgressContext
from offload.egress.privacy.shareable_part import holds_private
from offload.engine import AnswerStream, Engine, HiddenStateSource
from offload.errors import (
    CloudFailed,
    ContextLengthError,
    EgressBlocked,
    EgressNotPermitted,
    LinkError,
    Unsupported,
)
from offload.hybrid.acceptance import Acceptance
from offload.hybrid.answer_pair import AnswerPair
from offload.hybrid.decision_state import DecisionInputs, DecisionState
from offload.hybrid.far_help import FarHelp
from offload.hybrid.handover import BackgroundStream, accepted
from offload.messages import Delta, Finish, Request, Side
from offload.pictures import blind
from offload.policy.serving.actions import Actions
from offload.policy.serving.dispatch import LatencyModel
from offload.policy.serving.failsafe import Failsafe
from offload.policy.serving.gate import GateVerdict
from offload.policy.serving.signals import Signals
from offload.thinking import split


class Escalation:
    """Escalation of one request, with the state of its decision."""

    def __init__(
        self,
        edge: Engine,
        cloud: EgressEngine | None,
        request: Request,
        verdict: GateVerdict,
        deciding: DecisionInputs,
        consent: AskConsent,
        *,
        acceptance: Acceptance | None = None,
        actions: Actions = Actions(),  # noqa: B008 - frozen
        near_sees: bool = False,
    ) -> None:
        """Take who may answer and by what.

        `acceptance` where text cannot be taken back, `near_sees` where the near model is to be
        given pictures.
        """
        self._edge, self._cloud, self._near_sees = edge, cloud, near_sees
        self._request, self.verdict, self._by = request, verdict, deciding
        self._began_s = time.monotonic()
        self.state = DecisionState(deciding, request, cloud)
        self._acceptance, self._actions = acceptance, actions
        self.may_leave = ConsentOnce(request, consent, is_needed=verdict.must_ask)
        self._help = FarHelp(cloud, request, actions, self.state, self.may_leave)
        self._text = ""  # what the reader has before them
        self._writer: Side | None = None  # who wrote the end of it
        self.begun_by: Side | None = None  # who wrote its beginning, where the other goes on
        self._far_answer = Signals()

    async def run(self) -> AnswerStream:
        """Stream the answer of the side that the policy chooses."""
        async with aclosing(self._started()) as source:
            async for item in source:
                if isinstance(item, Delta):
                    self._text = item.apply(self._text)
                    self._writer = item.source or self._writer
                    if item.source == "cloud":
                        self._far_answer.take(item.confidence, item.text)
                yield item

    def pair(self, far_model: str) -> AnswerPair | None:
        """Return both answers once the far one has ended; None where they cannot be compared.

        Both must have been finished, each of itself, and to the same question.
        """
        alone = not self._request.answer_prefix and self.begun_by is None
        if not self._request.messages or not alone or holds_private(self._request):
            return None
        if self._help.has_lent:
            return None  # the near answer is not the near model's alone
        return self.state.pair(self._far_answer, far_model)

    def _started(self) -> AnswerStream:
        if self.verdict.choice == "edge":
            return self._near(self.verdict.reason)
        if self.verdict.choice == "cloud":
            return self._far(self.verdict.reason)
        start, reason = self.state.start()
        if start == "near_only":
            return self._near(reason)
        if start == "far" and self._actions.asks:
            return self._far(reason)
        return self._watched(hedged=start == "both" and self._actions.asks)

    async def _near(
        self,
        reason: str,
        *,
        replaces: bool = False,
        failure: LinkError | None = None,
        prefix: str = "",
    ) -> AnswerStream:
        request = self._request
        if prefix:
            begun = request.answer_prefix + prefix
            request = msgspec.structs.replace(request, answer_prefix=begun)
        ended: Finish | None = None
        with self._revealed():
            async with aclosing(self._near_items(request)) as edge:
                async for item in edge:
                    if isinstance(item, Finish):
                        ended = item
                        break
                    self.state.monitor.see(item)
                    yield msgspec.structs.replace(item, source="edge", replaces=replaces)
                    replaces = False
                    if self.state.monitor.stuck:
                        break
        self.state.monitor.conclude(ended.reason if ended else "stop")
        async for rest in self._stands(ended, reason, failure):
            yield rest

    async def _stands(
        self,
        ended: Finish | None,
        reason: str,
        failure: LinkError | None = None,
        *,
        given_up: bool = False,
    ) -> AnswerStream:
        """End the near answer as it stands, less the circles it may have run in."""
        if (cut := self.state.cut(self._text)) is not None:
            yield cut
        finish = ended or self.state.broken_off()
        yield self.state.routed(finish, "edge", reason, failure, given_up=given_up)

    async def _far(self, reason: str) -> AnswerStream:
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

    async def cloud_stream(self, reason: str, prefix: str = "") -> AnswerStream:
        """Stream the cloud's answer, behind `prefix` where one is given and the cloud can."""
        assert self._cloud is not None, "the gate lets nothing out without a cloud"
        self.state.asked_far = True
        if prefix:
            begun = self._request.answer_prefix + prefix
            behind = msgspec.structs.replace(self._request, answer_prefix=begun)
            try:
                head: Delta | None = Delta(text=prefix, source="cloud")
                async for item in self._cloud_items(behind, reason):
                    if head is not None:
                        self.begun_by = "edge"
                        yield head
                        head = None
                    yield item
                return
            except Unsupported as error:
                if self._num_accepted:
                    raise CloudFailed(
                        f"the far model cannot go on with an answer ({error}); "
                        'set policy.rescue to "replace"'
                    ) from None
                # a cloud that cannot go on from another's text begins its own
        async for item in self._cloud_items(self._request, reason):
            yield item

    async def _cloud_items(self, request: Request, reason: str) -> AnswerStream:
        assert self._cloud is not None, "the gate lets nothing out without a cloud"
        context = EgressContext(reason=reason, agreed=self.may_leave.agreed is True)
        door = self._cloud.within(context)
        async with aclosing(self._timed(door, request, self._by.far_latency)) as cloud:
            async for item in cloud:
                if isinstance(item, Delta):
                    yield msgspec.structs.replace(item, source="cloud")
                elif item.reason == "error":
                    raise _failed(item)
                else:
                    yield self.state.routed(item, "cloud", reason)

    async def _watched(self, *, hedged: bool) -> AnswerStream:
        """Let the edge answer; when the monitor trips, ask the cloud while the edge goes on."""
        reason, ended, failure = self.verdict.reason, None, None
        async with BackgroundStream() as far:
            if hedged:
                reason = await self._ask(far, "hedged")
            with self._revealed():
                async with aclosing(self._help.answer(self._near_items)) as edge:
                    async for item in edge:
                        if isinstance(item, Finish):
                            ended = item
                            break
                        self.state.see(item)
                        yield self._as_accepted(item)
                        why = None if self._help.lends else self._wants_far
                        if why is not None and reason == self.verdict.reason:
                            reason = await self._ask(far, why)
                        if self.state.monitor.stuck:
                            ended = self.state.broken_off()
                            break
                        if far.arrived and reason == "unsure":
                            break
            failed = ended is not None and ended.reason == "error"
            if failed and not far.started and self._actions.asks:
                reason = await self._ask(far, "near_failed")
            if ended is not None:
                self.state.monitor.conclude(ended.reason)
                failure = self._help.end_lending()
                why = self._wants_far
                if why is not None and reason == self.verdict.reason:
                    reason = await self._decide(far, why)
            if reason in ("unsure", "explored", "near_failed") or (
                reason == "hedged" and self.state.monitor.tripped
            ):
                async for item in self._take_over(far, ended):
                    yield item
            elif ended is not None:
                kept = self.state.kept(reason, self.verdict.reason)
                async for item in self._stands(ended, kept, failure, given_up=far.started):
                    yield item

    async def _ask(self, far: BackgroundStream, reason: str) -> str:
        """Ask the cloud in the background if the text may leave; return the reason code."""
        if not await self.may_leave():
            return "not_allowed"
        prefix = self._prefix(reason)
        if not self._num_accepted:
            prefix = await self._help.closed(prefix)
        far.start(self.cloud_stream(reason, prefix))
        return reason

    @property
    def _wants_far(self) -> str | None:
        return self.state.wants_far if self._actions.asks else None

    async def _decide(self, far: BackgroundStream, why: str) -> str:
        """Settle a finished near answer that is doubted; return the reason code."""
        if self._is_passed_on:
            return "passed_on"
        if why == "unsure" and await self._help.keeps():
            return "checked"
        return await self._ask(far, why)

    def _as_accepted(self, delta: Delta) -> Delta:
        """Return a piece of the near answer with how much of that stands by now."""
        delta = msgspec.structs.replace(delta, source=delta.source or "edge")
        if self._acceptance is None:
            return delta
        self._acceptance.see(self.state.monitor)
        return msgspec.structs.replace(delta, accepted=self._acceptance.length)

    @property
    def _num_accepted(self) -> int:
        return self._acceptance.length if self._acceptance is not None else 0

    @property
    def _is_passed_on(self) -> bool:
        """Whether a finished answer has been read but for its last word: nothing is left to do."""
        return self._acceptance is not None and self._acceptance.is_open

    def _prefix(self, reason: str) -> str:
        """Return from where the cloud goes on; what was written from turns that stay, stays too."""
        if self._acceptance is not None:
            self._acceptance.freeze()
        if self._num_accepted:
            return self.state.monitor.text[: self._num_accepted]
        died = reason == "near_failed"
        way = self._by.rescue if died else self._by.handover
        if way != "continue" or holds_private(self._request):
            return ""
        text = self._text if died else self.state.monitor.sure_text
        return accepted(text) if split(text).answer.strip() else ""

    async def _take_over(self, far: BackgroundStream, ended: Finish | None) -> AnswerStream:
        """Stream the cloud's answer in place of the edge's, or keep the edge's if it fails."""
        shown = False
        try:
            async for item in far.items():
                if isinstance(item, Delta) and not shown:
                    item, shown = msgspec.structs.replace(item, replaces=True), True
                yield item
        except LinkError as error:
            if ended is not None and not shown:
                async for item in self._stands(ended, _code(error), error):
                    yield item
                return
            async for item in self._rescued(error):
                yield item

    async def _rescued(self, error: LinkError) -> AnswerStream:
        """Answer near where the cloud failed: from its text where that can be, else anew."""
        prefix = accepted(self._text) if self._by.rescue == "continue" else ""
        if split(prefix).answer.strip():  # from unfinished thoughts no other model goes on
            cut = len(prefix) < len(self._text)
            try:
                async for item in self._near_behind(prefix, error, cut=cut):
                    yield item
                return
            except (Unsupported, ContextLengthError):
                pass  # nothing was shown yet: both are raised before the first Delta
        self.state.watch_anew()
        replaces = bool(self._text)
        async for item in self._near(_code(error), replaces=replaces, failure=error):
            yield item

    async def _near_behind(self, prefix: str, error: LinkError, *, cut: bool) -> AnswerStream:
        self.state.watch_anew()
        code = "cut_off" if self._writer == "cloud" else _code(error)
        begun_by: Side | None = "cloud" if self._writer == "cloud" else None
        stream = self._near(code, failure=error, prefix=prefix)
        async with aclosing(stream) as near:
            async for item in near:
                if cut:  # the half word at the end of the cloud's text is taken back
                    yield Delta(text=prefix, source="cloud", replaces=True)
                    cut = False
                self.begun_by = begun_by
                yield item

    def _near_items(self, request: Request) -> AnswerStream:
        seen = request if self._near_sees else blind(request)
        return self._timed(self._edge, seen, self._by.near_latency)

    async def _timed(self, engine: Engine, request: Request, clock: LatencyModel) -> AnswerStream:
        began, first_s = time.monotonic(), None
        asked = with_time_left(request, self._began_s)
        async with aclosing(engine.generate(asked)) as stream:
            async for item in stream:
                now = time.monotonic() - began
                first_s = now if first_s is None else first_s
                if isinstance(item, Finish) and item.reason in ("stop", "length"):
                    _note(clock, request, item, first_s, now)
                yield item

    @contextmanager
    def _revealed(self) -> Iterator[None]:
        if self._by.rule.watches_states and isinstance(self._edge, HiddenStateSource):
            with self._edge.watch(self._request.id, self.state.monitor.state):
                yield
        else:
            yield


def _note(
    clock: LatencyModel, request: Request, finish: Finish, first_s: float, whole_s: float
) -> None:
    Failsafe()(lambda: clock.note(request, finish, first_s=first_s, whole_s=whole_s), None)


def _failed(finish: Finish) -> CloudFailed:
    error = CloudFailed(finish.error or "the cloud could not finish; ask again")
    error.bytes_sent = finish.usage.bytes_sent or None  # a cloud that counts nothing says 0
    return error


def _code(error: LinkError) -> str:
    """Return why the cloud did not answer, as a reason code."""
    if isinstance(error, EgressNotPermitted):
        return error.reason
    return "withheld" if isinstance(error, EgressBlocked) else "cloud_failed"
