"""Hybrid of two engines and a policy, as one Engine: near by default, far when that pays.

The reader sees one stream. Where the cloud takes over, its first Delta carries `replaces`; where
the cloud fails, the edge's answer stands, goes on from the cloud's text, or is begun anew.
"""

from __future__ import annotations

import contextlib
import copy
import random
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import msgspec

from offload.aims import LISTED, Aim, parse_aim
from offload.egress.door import Door, EgressEngine
from offload.egress.permission import AskConsent, Permission, anything, nobody
from offload.egress.privacy.shareable_part import class_of, strictest
from offload.engine import (
    AnswerStream,
    Embedding,
    Engine,
    ForwardsTokenizing,
    Seeing,
    SessionKeeping,
    Tokenizing,
    held_in_memory,
)
from offload.errors import (
    CloudFailed,
    CloudUnreachable,
    ContextLengthError,
    RequestError,
    Unsupported,
)
from offload.hybrid.acceptance import Acceptance, may_accept
from offload.hybrid.answer_pair import Learner
from offload.hybrid.decision_state import DecisionInputs, ExplorationDraw, with_left_out
from offload.hybrid.escalation import Escalation
from offload.hybrid.rule_in_use import RuleInUse
from offload.messages import Finish, ModelCard, Request, Side
from offload.pictures import shows_picture
from offload.policy.serving.actions import BY_DEFAULT, Watches
from offload.policy.serving.dispatch import LatencyModel, Prices, num_chars
from offload.policy.serving.failsafe import Failsafe
from offload.policy.serving.gate import Conditions, GateVerdict, gate
from offload.policy.serving.rule import Limit, Rule, ThresholdRule
from offload.policy.serving.small_talk import is_small_talk
from offload.reasons import Decision, Recorder

# Of the answers that the policy keeps near: learnt from doubtful ones alone, it got no better
# (benchmarks/policy_learn.json).
LEARNING_DRAWS = 0.1
_UNDECIDED = GateVerdict(choice="edge", reason="undecided")  # what cannot be judged does not leave


@dataclass(frozen=True, kw_only=True)
class HybridOptions:
    """Options of the hybrid; `forced` sends all to one side, within the gate's rules, `because` so.

    rule: calibrated, that of the first day, or a threshold. aim: what is asked for where no model
    is named. min_gain: how much likelier right the cloud must be for plain `auto` to ask it; None:
    as calibrated. exploration: how often plain `auto` does the opposite, to learn from it.
    handover: whether the cloud starts a doubted answer anew or goes on from what stands there.
    rescue: the same where the side that wrote has died. actions: what may be chosen besides the
    near model's own answer: to ask for a whole one, to have it checked, words of it lent.
    """

    rule: Rule = field(default_factory=ThresholdRule)
    aim: Aim = field(default_factory=Aim)
    min_gain: float | None = None
    prices: Prices = field(default_factory=Prices)
    exploration: float = 0.0
    handover: Literal["replace", "continue"] = "replace"
    rescue: Literal["replace", "continue"] = "continue"
    actions: frozenset[str] = BY_DEFAULT
    offline: bool = False
    forced: Side | None = None
    because: str = ""


class Hybrid(ForwardsTokenizing):
    """Hybrid engine: answers near, and far when the near model is unsure and the text may leave.

    `consent` is asked before a request of class `ask` leaves; without one, it never does. A cloud
    that has no door yet gets one, so that nothing reaches it but through that.
    `recorder` is told of every decision and closed with the engines, and so is `learner` of pairs
    of answers, where the person lets it learn; `conditions` reads for the
    gate how the link, the spending and the device stand; `allowed` tells what may leave now.
    `chance` draws from 0 to 1.
    """

    def __init__(
        self,
        edge: Engine,
        cloud: Engine | None,
        *,
        options: HybridOptions | None = None,
        consent: AskConsent = nobody,
        recorder: Recorder | None = None,
        learner: Learner | None = None,
        conditions: Callable[[], Conditions] = Conditions,
        allowed: Permission = anything,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._options = options or HybridOptions()
        self.edge = edge
        if cloud is not None and not isinstance(cloud, EgressEngine):
            door = Door(allowed=allowed, prices=self._options.prices, consent=consent)
            cloud = EgressEngine(cloud, door=door)
        self.cloud: EgressEngine | None = cloud
        self._consent = consent
        self._recorder, self._learner = recorder, learner
        self._read_conditions = conditions
        self._allowed = allowed
        self._chance = chance
        self._near_latency, self._far_latency = LatencyModel(), LatencyModel()
        self.deciding = RuleInUse(self._options.rule, self._options.min_gain, learner)
        self._watches = Watches()

    def card(self) -> ModelCard:
        """Return the edge model's card: it is the one that is always there."""
        return self.edge.card()

    @property
    def can_learn(self) -> bool:
        """Whether far answers would be learnt from, where the person lets it."""
        return self._learner is not None

    @property
    def asks_to_learn(self) -> bool:
        """Whether they would be, and the person has yet to be asked."""
        return self.can_learn and self._allowed().asks_to_learn

    def names(self) -> tuple[str, ...]:
        """Return the names a request may ask for; see offload/aims.py."""
        return (*LISTED, self.card().name)

    def may_replace(self, request: Request) -> bool:
        """Whether text of this request's answer may be withdrawn later; see Routing."""
        return self._verdict(self._as_allowed(request), self._aim(request)).choice != "edge"

    def in_use(self, keep_alive_s: float | None = None) -> AbstractAsyncContextManager[object]:
        """Hold the near model in memory while the block lasts. See OnDemand."""
        return held_in_memory(self.edge, keep_alive_s)

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Return one vector per text, made near: nothing of it leaves. See Embedding."""
        if not isinstance(self.edge, Embedding):
            raise Unsupported("the near model makes no embeddings; choose a GGUF file for it")
        return await self.edge.embed(texts)

    async def forget(self, session: str) -> None:
        """Forget what the near model keeps of a conversation. See SessionKeeping."""
        if isinstance(self.edge, SessionKeeping):
            await self.edge.forget(session)

    def _tokenizing(self) -> Tokenizing:
        if not isinstance(self.edge, Tokenizing):
            raise Unsupported("the near model's engine cannot tokenize text; choose another model")
        return self.edge

    def forced(self, side: Side, *, because: str = "") -> Hybrid:
        """Return the same two engines with one side demanded, within the gate's rules.

        For one request that a person wants answered elsewhere; close only the original. `because`
        is the reason code of what leaves, where it is not that a person wants it.
        """
        twin = copy.copy(self)
        twin._options = replace(self._options, forced=side, because=because)
        return twin

    async def aclose(self) -> None:
        """Close both engines."""
        await self.edge.aclose()
        if self.cloud is not None:
            await self.cloud.aclose()
        if self._learner is not None:
            await self._learner.aclose()
        if self._recorder is not None:
            self._recorder.close()

    def generate(self, request: Request) -> AnswerStream:
        """Stream the answer of the side that the policy chooses.

        Raises RequestError for a model's name it does not know, or an aim it cannot keep, and
        ChainRefused for a request that was here before.
        """
        return self._stream(request, settles=False)

    def settling(self, request: Request) -> AnswerStream:
        """Stream the answer for a reader who cannot take text back; see Routing."""
        return self._stream(request, settles=True)

    async def _stream(self, request: Request, *, settles: bool) -> AnswerStream:
        aim, began_at = self._aim(request), time.time()
        request = self._as_allowed(request)
        if self.cloud is not None:
            self.cloud.waypoint.require_new(request)
        await self._heed()
        Failsafe()(lambda: self.deciding.renew(learns=self._allowed().learns), None)
        near_sees = isinstance(self.edge, Seeing) and await self.edge.sees()
        verdict = self._verdict(request, aim)
        if shows_picture(request):
            verdict = await self._for_eyes(verdict, near_sees=near_sees)
        # The engines below have names of their own.
        plain = msgspec.structs.replace(request, model="")
        escalation = self._escalation(plain, verdict, aim, settles=settles, near_sees=near_sees)
        async with aclosing(self._answer(escalation)) as answer:
            async for item in answer:
                if isinstance(item, Finish):
                    item = self._named(with_left_out(request, item), escalation.begun_by)
                    # All are for the next request: none may fail this one at its end.
                    Failsafe()(partial(self._meet, item), None)
                    Failsafe()(partial(self._learn, escalation, item), None)
                    Failsafe()(
                        partial(self._record, request, escalation, item, aim, began_at), None
                    )
                yield item

    async def _answer(self, escalation: Escalation) -> AnswerStream:
        async with aclosing(escalation.run()) as source:
            try:
                async for item in source:
                    yield item
                return
            except ContextLengthError:
                may_ask = escalation.verdict.choice == "open" and "ask" in self._options.actions
                if not may_ask or not await escalation.may_leave():
                    raise
        escalation.state.draw = None  # only one side could answer
        async with aclosing(escalation.cloud_stream("too_long")) as far:
            try:
                async for item in far:
                    yield item
            except CloudFailed as failure:
                if isinstance(failure.__cause__, ContextLengthError):
                    raise failure.__cause__ from None  # too long for both: the reader's to mend
                raise

    def _aim(self, request: Request) -> Aim:
        if not request.model:
            return self._options.aim
        return parse_aim(request.model, (self.card().name,))

    def _as_allowed(self, request: Request) -> Request:
        """Return the request with the class that the settings and its turns give it now."""
        privacy = strictest(class_of(request), self._allowed().privacy)
        return msgspec.structs.replace(request, privacy=privacy)

    async def _heed(self) -> None:
        if self.cloud is not None:
            await self.cloud.close_if_forbidden()

    async def _ask(self, request: Request) -> bool:
        agreed = await self._consent(request)
        await self._heed()  # "never" may be what was said
        return agreed

    def _verdict(self, request: Request, aim: Aim) -> GateVerdict:
        verdict = Failsafe()(lambda: gate(request, self._conditions(aim)), _UNDECIDED)
        because = self._options.because if verdict.choice == "cloud" else ""
        return replace(verdict, reason=because) if because else verdict

    async def _for_eyes(self, verdict: GateVerdict, *, near_sees: bool) -> GateVerdict:
        """Return the verdict for what is asked of a picture: whoever sees answers.

        Raises Unsupported where nobody does that may be asked.
        """
        if near_sees and (verdict.choice == "edge" or self.cloud is None):
            return verdict
        if verdict.choice == "edge" or self.cloud is None:
            why = verdict.reason.replace("_", " ")
            raise Unsupported(
                f"the near model sees no pictures, and none far may be asked ({why}); "
                "leave the picture out"
            )
        if near_sees and verdict.choice == "open":
            far_sees = await self.cloud.sees()
            return verdict if far_sees else GateVerdict(choice="edge", reason="pictures_near")
        if not await self.cloud.sees():
            raise Unsupported(
                "neither model sees pictures; set up a server whose model does (cloud.url, and "
                "cloud.sees = yes where it does not say so), or leave the picture out"
            )
        return GateVerdict(choice="cloud", reason="pictures", must_ask=verdict.must_ask)

    def _conditions(self, aim: Aim) -> Conditions:
        options = self._options
        sides: dict[str, Side] = {"local": "edge", "cloud": "cloud"}
        return replace(
            self._read_conditions(),
            offline=options.offline or self._allowed().offline,
            keeps_whole=self._allowed().keeps_whole,
            has_cloud=self.cloud is not None,
            forced=options.forced or sides.get(aim.kind),
        )

    def _limited(
        self, request: Request, verdict: GateVerdict, aim: Aim
    ) -> tuple[GateVerdict, Limit]:
        """Return who may answer once price and aim are looked at, and what the aim demands."""
        options = self._options
        cost = options.prices.expected_cost(num_chars(request), request.sampling.max_tokens)
        allowed = request.budget.max_cost
        if verdict.choice != "edge" and allowed is not None and cost > allowed:
            verdict = GateVerdict(choice="edge", reason="over_price")
        paid = options.prices.in_gain(cost)
        limit = self.deciding.limits.limit(aim, cost=paid) if verdict.choice == "open" else Limit()
        if verdict.choice == "open" and self._eases(aim) and is_small_talk(request):
            verdict, limit = replace(verdict, reason="small_talk"), limit.eased()
        return verdict, limit

    def _escalation(
        self,
        request: Request,
        verdict: GateVerdict,
        aim: Aim,
        *,
        settles: bool,
        near_sees: bool,
    ) -> Escalation:
        options, safely = self._options, Failsafe(RequestError)  # an aim that cannot be kept
        otherwise = verdict if verdict.choice == "edge" else _UNDECIDED
        verdict, limit = safely(partial(self._limited, request, verdict, aim), (otherwise, Limit()))
        explores = verdict.reason == "confident" and aim.kind == "auto" and not verdict.must_ask
        deciding = DecisionInputs(
            rule=self.deciding.rule,
            limit=limit,
            handover=options.handover,
            rescue=options.rescue,
            near_latency=self._near_latency,
            far_latency=self._far_latency,
            draw=self._draw() if verdict.choice == "open" and explores else None,
        )
        actions = self._watches.actions(options.actions, request, settles=settles)
        continues = options.rescue == "continue" and aim.kind == "auto"
        settles = settles and verdict.choice == "open" and continues
        settles = settles and may_accept(request, self.cloud)
        draws_opposite = deciding.draw is not None and deciding.draw.opposite
        acceptance = Acceptance(limit) if settles and not draws_opposite else None
        return Escalation(
            self.edge,
            self.cloud,
            request,
            verdict,
            deciding,
            self._ask,
            acceptance=acceptance,
            actions=actions,
            near_sees=near_sees,
        )

    def _draw(self) -> ExplorationDraw | None:
        share, only_far = self._options.exploration, False
        if share <= 0.0 and self._learner is not None and self._allowed().learns:
            share, only_far = LEARNING_DRAWS, True
        if share <= 0.0:
            return None
        return ExplorationDraw(share=share, opposite=self._chance() < share, only_far=only_far)

    def _eases(self, aim: Aim) -> bool:
        # What was promised, or set by the person, holds for every turn.
        return aim.kind == "auto" and self._options.min_gain is None

    def _named(self, finish: Finish, begun_by: Side | None) -> Finish:
        """Return the end of an answer with the models that wrote it."""
        if (route := finish.route) is None:
            return finish
        route = msgspec.structs.replace(
            route,
            model=route.onward[-1].model if route.onward else self._name_of(route.served_by),
            begun_by=self._name_of(begun_by) if begun_by not in (None, route.served_by) else "",
        )
        return msgspec.structs.replace(finish, route=route)

    def far_name(self) -> str:
        """Return the far model's name; empty while it was not reached."""
        return self._name_of("cloud")

    def _name_of(self, side: Side | None) -> str:
        engine = self.edge if side == "edge" else self.cloud
        with contextlib.suppress(CloudUnreachable):  # one that was never reached has no name yet
            return engine.card().name if engine is not None else ""
        return ""

    def _meet(self, finish: Finish) -> None:
        """Look at the cloud's name when it has answered: a link knows it only then."""
        if (
            self.cloud is not None
            and finish.route is not None
            and finish.route.served_by == "cloud"
        ):
            self.deciding.meet(self.cloud.card().name)

    def _learn(self, escalation: Escalation, finish: Finish) -> None:
        """Hand both answers to the learner, where both were finished and the person lets it."""
        far = finish.route is not None and finish.route.served_by == "cloud"
        if self._learner is None or self.cloud is None or not far or finish.reason != "stop":
            return
        if escalation.verdict.reason == "small_talk" or not self._allowed().learns:
            return
        if (pair := escalation.pair(self.cloud.card().name)) is not None:
            self._learner.take(pair)

    def _record(
        self, request: Request, escalation: Escalation, finish: Finish, aim: Aim, began_at: float
    ) -> None:
        if aim.kind == "budget" and escalation.verdict.choice == "open":
            far = finish.route is not None and finish.route.served_by == "cloud"
            self.deciding.limits.note(aim, escalation.state.need, went_far=far)
        if self._recorder is None:
            return
        decision = Decision(
            request_id=request.id,
            began_at=began_at,
            inputs={"aim": str(aim), **escalation.state.inputs()},
            propensity=escalation.state.propensity,
            finish=finish,
        )
        self._recorder.record(request, decision)
