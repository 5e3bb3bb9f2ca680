"""Far help with one near answer: words of it, or a reading of it, through the one door."""

from __future__ import annotations

from contextlib import aclosing

from offload.egress.door import EgressEngine
from offload.egress.permission import ConsentOnce, EgressContext
from offload.egress.privacy.shareable_part import holds_private
from offload.engine import AnswerStream
from offload.errors import LinkError, Unsupported
from offload.hybrid.decision_state import DecisionState
from offload.hybrid.lending import Lending, Source
from offload.hybrid.visit_gate import VisitGate
from offload.messages import Alternative, Delta, Finish, PromptToken, Request, Usage
from offload.policy.serving.actions import Actions
from offload.policy.serving.check import FarReading, check_request, read_answer
from offload.policy.serving.lend import LendRule
from offload.thinking import split


class FarHelp:
    """Far help as far as the policy may choose it; what it took is told to the decision's state."""

    def __init__(
        self,
        cloud: EgressEngine | None,
        request: Request,
        actions: Actions,
        state: DecisionState,
        consent: ConsentOnce,
    ) -> None:
        """Take who helps with which request, and what is known of it."""
        self._cloud, self._request, self._state = cloud, request, state
        self._actions, self._consent = actions, consent
        self._is_private = holds_private(request)
        self._gate = VisitGate(cloud, request, consent) if cloud is not None else None
        self._lending = self._lends()

    def _lends(self) -> Lending | None:
        watch, request = self._actions.lend, self._request
        if watch is None or not watch.is_useful or self._gate is None or self._is_private:
            return None
        return Lending(
            request,
            rule=LendRule(),
            num_tokens=self._state.visit_len,
            watch=watch,
            gate=self._gate,
            most_s=self._state.far_times.whole_s,
        )

    @property
    def lends(self) -> bool:
        """Whether words of the answer may be the far model's: then it is judged at its end."""
        return self._lending is not None

    @property
    def has_lent(self) -> bool:
        """Whether any were asked for."""
        return self._lending is not None and self._lending.num_visits > 0

    def answer(self, near: Source) -> AnswerStream:
        """Stream the near answer, with the far model's words where it doubts."""
        if self._lending is None:
            return near(self._request)
        return self._lending.stream(near, lambda visit: self._far("lend", visit))

    def end_lending(self) -> LinkError | None:
        """Take note of what was lent; return why no more was, where that failed."""
        if self._lending is None:
            return None
        self._state.take_lent(self._lending.num_visits, self._lending.usage)
        return self._lending.failure

    async def closed(self, prefix: str) -> str:
        """Return the part of an answer's beginning that may leave; see VisitGate."""
        return await self._gate.closed(prefix) if prefix and self._gate is not None else prefix

    async def keeps(self) -> bool:
        """Whether the far model, which reads the finished near answer, lets it stand.

        Where it cannot be asked, or is cut off, the answer is decided as without a check.
        """
        answer, watch = split(self._state.monitor.text).answer, self._actions.check
        if watch is None or self._cloud is None or not watch.is_useful or not answer.strip():
            return False
        if self._is_private or not await self._consent():
            return False
        try:
            reading, usage = await self._reading(answer)
        except Unsupported:
            watch.is_unsupported()
            return False
        except LinkError:
            return False
        accepts = self._state.take_check(reading, usage)
        watch.note(accepted=accepts)
        return accepts

    async def _reading(self, answer: str) -> tuple[FarReading, Usage]:
        """Return what the far model told of an answer, and what that took.

        Raises Unsupported where it cannot, and LinkError.
        """
        tokens: list[PromptToken] = []
        words: tuple[Alternative, ...] = ()
        usage = Usage()
        async with aclosing(self._far("check", check_request(self._request, answer))) as items:
            async for item in items:
                if isinstance(item, Delta):
                    tokens += item.prompt_tokens
                    words = words or next(iter(item.alternatives), ())
                elif isinstance(item, Finish):
                    usage = item.usage
        return read_answer(answer, tokens, words), usage

    def _far(self, reason: str, request: Request) -> AnswerStream:
        assert self._cloud is not None, "help was offered without a far model"
        context = EgressContext(reason=reason, agreed=self._consent.agreed is True)
        return self._cloud.within(context).generate(request)
