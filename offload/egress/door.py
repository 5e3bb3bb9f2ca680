"""Egress door: by it all text leaves the device; what may not leave is stopped or replaced.

The gate has decided before; this is the second lock. A text passes its class, then the rules for
what is found in it, then the ledger, and only then the engine that sends it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace

import msgspec

from offload.chain import Waypoint
from offload.egress.ledger.entries import DaySpending, Departure, DepartureOutcome, digest
from offload.egress.ledger.ledger import Ledger
from offload.egress.permission import (
    Allowed,
    AskConsent,
    EgressContext,
    Permission,
    anything,
    nobody,
)
from offload.egress.preview import AT_ONCE
from offload.egress.privacy.findings import RULES_OF, Kind, Rules, counted
from offload.egress.privacy.placeholder_restoring import Restorer
from offload.egress.privacy.redaction import Cleared, clear
from offload.egress.privacy.shareable_part import class_of, part_that_leaves, strictest
from offload.engine import AnswerStream, Connectable, Engine, Seeing, can_continue
from offload.errors import (
    CloudFailed,
    ContextLengthError,
    EgressBlocked,
    EgressNotPermitted,
    LinkError,
)
from offload.link.health import CloudSnapshot
from offload.messages import Delta, Finish, ModelCard, Privacy, Request
from offload.pictures import bare, blind
from offload.policy.serving.dispatch import CloudStatus, MeasuredCloud, Prices, num_chars
from offload.policy.serving.gate import Conditions, DayLimits, kept_near
from offload.prompt_length import require_short
from offload.reasons import sentence

_UNKNOWN = CloudSnapshot(healthy=True)


@dataclass(frozen=True, kw_only=True)
class Door:
    """Options of the door: where it leads, what may leave by it now, and what that costs.

    `consent` is asked for a text of class `ask`, and where the rule of a kind found in it is `ask`.
    `reopen` makes the engine behind the door anew once it was closed for good reasons.
    """

    endpoint: str = ""
    allowed: Permission = anything
    prices: Prices = field(default_factory=Prices)
    consent: AskConsent = nobody
    reopen: Callable[[], Engine] | None = None


class EgressEngine:
    """Egress engine around the cloud's: everything that reaches the cloud passes through it."""

    def __init__(self, cloud: Engine, *, door: Door, ledger: Ledger | None = None) -> None:
        self.cloud = cloud
        self.door = door
        self.num_refused = 0  # texts of class local_only that came this far: 0, or a bug elsewhere
        self.num_withheld = 0  # texts stopped for what was found in them
        self.waypoint = Waypoint()
        self._ledger = ledger
        self._is_closed = False

    def card(self) -> ModelCard:
        """Return the card of the cloud's model. Raises CloudUnreachable before it is known."""
        return self.cloud.card()

    def snapshot(self) -> CloudStatus:
        """Return what is known of the cloud; nothing is sent for it."""
        return self.cloud.snapshot() if isinstance(self.cloud, MeasuredCloud) else _UNKNOWN

    def continues(self, request: Request) -> bool:
        """Whether the cloud could go on from an answer's beginning. See Continuing."""
        return can_continue(self.cloud, request)

    async def private_values(self, request: Request) -> tuple[str, ...]:
        """Return what would be replaced in a request if it left now, and the names listed for it.

        Raises EgressBlocked for a request that cannot be read so.
        """
        rules = self.door.allowed().rules
        cleared = await _clear(request, rules)
        return (*cleared.originals.values(), *rules.names)

    async def sees(self) -> bool:
        """Whether the cloud's model sees pictures. See Seeing."""
        return isinstance(self.cloud, Seeing) and await self.cloud.sees()

    def within(self, context: EgressContext) -> Engine:
        """Return this door as an Engine whose texts all leave in one context."""
        return _Within(self, context)

    async def close_if_forbidden(self) -> None:
        """Close the link where nothing may leave any more; it is opened anew once it may."""
        if self._is_closed or self.door.reopen is None:
            return
        allowed = self.door.allowed()
        if allowed.offline or allowed.privacy is Privacy.LOCAL_ONLY:
            self._is_closed = True
            await self.cloud.aclose()

    async def aclose(self) -> None:
        """Close the engine behind the door."""
        await self.cloud.aclose()

    async def generate(
        self,
        request: Request,
        context: EgressContext = EgressContext(),  # noqa: B008 - frozen
    ) -> AnswerStream:
        """Stream the cloud's answer with the originals put back in, and priced.

        Raises EgressBlocked for a text that may not leave, and what the cloud's engine raises.
        """
        allowed = self.door.allowed()
        context = await self._permit(request, allowed, context)
        request, _ = part_that_leaves(request)
        await self._open()
        if any(message.pictures for message in request.messages):
            request = bare(request) if await self.sees() else blind(request)
        await self._require_short(request)
        cleared = await self._cleared(request, allowed.rules, context)
        departure = self._departure(request, cleared, allowed.rules, context.reason)
        if self._ledger is not None:
            self._ledger.leaving(departure)
        trip = _DepartureLog(self._ledger, departure.key, self.door.prices)
        try:
            async for item in self._restored(cleared):
                yield trip.seen(item)
        except ContextLengthError as error:
            failure = _too_long(error, bytes_sent=None)
            trip.failed(failure)
            raise failure from error
        except BaseException as error:
            trip.failed(error)
            raise
        finally:
            trip.end()

    async def _require_short(self, request: Request) -> None:
        """Raise CloudFailed for what the cloud could not read: to search it would take its time."""
        if num_chars(request) <= AT_ONCE:
            return
        card = await self.cloud.connect() if isinstance(self.cloud, Connectable) else self.card()
        try:
            require_short(request, card.max_model_len)
        except ContextLengthError as error:
            raise _too_long(error, bytes_sent=0) from error

    async def _permit(
        self, request: Request, allowed: Allowed, context: EgressContext
    ) -> EgressContext:
        """Ask once more, at the moment of leaving, what the gate was asked. Raises EgressBlocked.

        Return the context, with what its person said if they were asked.
        """
        if class_of(request) is Privacy.LOCAL_ONLY:
            self.num_refused += 1
            raise EgressBlocked("a local_only text was stopped before it left; it is answered near")
        if request.prompt_token_ids:
            self.num_withheld += 1
            raise EgressBlocked(
                "a prompt of token ids cannot be searched for what may not leave; send text"
            )
        privacy = strictest(request.privacy, allowed.privacy)
        reason = kept_near(
            msgspec.structs.replace(request, privacy=privacy), self._conditions(allowed)
        )
        if reason is None and privacy is Privacy.ASK and not context.agreed:
            context = replace(context, agreed=await self._asks(request, context))
            reason = None if context.agreed else "not_allowed"
        if reason is not None:
            self.num_withheld += 1
            raise EgressNotPermitted(allowed.trouble or sentence(reason), reason)
        return context

    async def _asks(self, request: Request, context: EgressContext) -> bool:
        return context.attended and await self.door.consent(request)

    def _conditions(self, allowed: Allowed) -> Conditions:
        limited = self._ledger is not None and allowed.limits != DayLimits()
        return Conditions(
            offline=allowed.offline,
            limits=allowed.limits,
            spent=self._ledger.spent_today() if limited and self._ledger else DaySpending(),
            keeps_whole=allowed.keeps_whole,
        )

    async def _open(self) -> None:
        if self._is_closed and self.door.reopen is not None:
            self.cloud, self._is_closed = self.door.reopen(), False

    async def _cleared(self, request: Request, rules: Rules, context: EgressContext) -> Cleared:
        """Return the request as it may leave. Raises EgressBlocked."""
        cleared = await _clear(request, rules)
        blocked = _of_action(cleared, rules, "block")
        doubtful = _of_action(cleared, rules, "ask")
        if blocked:
            self._withhold(blocked, "your rules block it")
        if doubtful and not context.agreed and not await self._asks(request, context):
            self._withhold(doubtful, "you did not allow it")
        return cleared

    def _withhold(self, kinds: Sequence[Kind], why: str) -> None:
        self.num_withheld += 1
        names = ", ".join(kind.replace("_", " ") for kind in kinds)
        raise EgressBlocked(
            f"the text holds what may not leave ({names}; {why}); "
            f"privacy.{RULES_OF[kinds[0]]} is the rule to change"
        )

    def _departure(self, request: Request, cleared: Cleared, rules: Rules, why: str) -> Departure:
        content = msgspec.json.encode(cleared.request)
        return Departure(
            request_id=request.id,
            left_at=time.time(),
            endpoint=self.door.endpoint,
            why=why,
            privacy=request.privacy.value,
            num_bytes=len(content),
            digest=digest(content),
            found=counted(cleared.kinds, rules),
            conversation=request.session or "",
            content=content.decode(),
        )

    def _passed_on(self, request: Request) -> Request:
        """Return a request as the far side is asked it, with what its price leaves of the budget.

        Raises ChainRefused.
        """
        allowed = request.budget.max_cost
        if allowed is not None:
            prices = self.door.prices
            cost = prices.expected_cost(num_chars(request), request.sampling.max_tokens)
            left = msgspec.structs.replace(request.budget, max_cost=max(0.0, allowed - cost))
            request = msgspec.structs.replace(request, budget=left)
        return self.waypoint.onward(request)

    async def _restored(self, cleared: Cleared) -> AnswerStream:
        as_json = cleared.request.sampling.json_schema is not None
        with_calls = bool(cleared.request.tools)
        restorer = Restorer(cleared.originals, as_json=as_json, with_calls=with_calls)
        source = self.cloud.generate(self._passed_on(cleared.request))
        index = 0
        async with aclosing(source) as items:
            async for item in items:
                if isinstance(item, Finish):
                    rest = restorer.end()
                    if rest:
                        yield Delta(text=rest, index=index)
                    yield _told(item, restorer.num_left, len(cleared.originals))
                    return
                if item.replaces:
                    restorer.forget()
                index = item.index + len(item.token_ids)
                text = restorer.feed(item.text)
                yield item if text == item.text else msgspec.structs.replace(item, text=text)


class _Within:
    """Egress engine for texts that all leave in one context."""

    def __init__(self, engine: EgressEngine, context: EgressContext) -> None:
        self._engine, self._context = engine, context

    def card(self) -> ModelCard:
        return self._engine.card()

    def generate(self, request: Request) -> AnswerStream:
        return self._engine.generate(request, self._context)

    async def aclose(self) -> None:
        await self._engine.aclose()


class _DepartureLog:
    """Departure log: the outcome of one departure, written to the ledger once."""

    def __init__(self, ledger: Ledger | None, key: str, prices: Prices) -> None:
        self._ledger = ledger
        self._key = key
        self._prices = prices
        self._began_s = time.monotonic()
        self._num_tokens = 0
        self._back = DepartureOutcome(state="abandoned")

    def seen(self, item: Delta | Finish) -> Delta | Finish:
        """Note an item on its way to the reader, and price the last one if the cloud has not."""
        if isinstance(item, Delta):
            self._num_tokens += len(item.token_ids)
            return item
        usage = item.usage
        cost = usage.cost or self._prices.cost(usage.prompt_tokens, usage.completion_tokens)
        usage = msgspec.structs.replace(usage, cost=cost)
        self._back = DepartureOutcome(
            state="failed" if item.reason == "error" else "answered",
            # A cloud that counts no bytes (0) leaves the size of the text as the best figure.
            bytes_sent=usage.bytes_sent or None,
            bytes_received=usage.bytes_received or None,
            num_tokens=usage.prompt_tokens + usage.completion_tokens,
            cost=cost,
            failure=item.error,
        )
        return msgspec.structs.replace(item, usage=usage)

    def failed(self, error: BaseException) -> None:
        """Note that the cloud failed, and what had left by then as far as the error tells."""
        if isinstance(error, LinkError):
            self._back = DepartureOutcome(
                state="failed",
                bytes_sent=error.bytes_sent,
                num_tokens=self._num_tokens,
                cost=self._prices.cost(0, self._num_tokens),
                failure=str(error),
            )
        elif isinstance(error, Exception):
            self._back = DepartureOutcome(
                state="failed", num_tokens=self._num_tokens, failure=type(error).__name__
            )

    def end(self) -> None:
        """Tell the ledger what came back."""
        if self._ledger is None:
            return
        back = self._back
        if back.state == "abandoned":
            cost = self._prices.cost(0, self._num_tokens)
            back = msgspec.structs.replace(back, num_tokens=self._num_tokens, cost=cost)
        seconds = time.monotonic() - self._began_s
        self._ledger.returned(self._key, msgspec.structs.replace(back, seconds=seconds))


async def _clear(request: Request, rules: Rules) -> Cleared:
    if num_chars(request) <= AT_ONCE:
        return clear(request, rules)
    # A long text takes longer than the event loop may wait.
    return await asyncio.to_thread(clear, request, rules)


def _too_long(error: ContextLengthError, *, bytes_sent: int | None) -> CloudFailed:
    failure = CloudFailed(str(error))
    failure.bytes_sent = bytes_sent
    return failure


def _of_action(cleared: Cleared, rules: Rules, action: str) -> list[Kind]:
    kinds = dict.fromkeys(cleared.kinds)
    return [kind for kind in kinds if rules.action(kind) == action]


def _told(finish: Finish, num_left: int, num_replaced: int) -> Finish:
    """Return the end with how many values were replaced, and how many links kept a placeholder."""
    if not num_replaced:
        return finish
    usage = msgspec.structs.replace(
        finish.usage, placeholders_in_links=num_left, num_replaced=num_replaced
    )
    return msgspec.structs.replace(finish, usage=usage)
