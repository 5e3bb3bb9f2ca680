"""Visit gate: whether the text of a near answer so far may leave, for the far model to go on."""

from __future__ import annotations

from offload.egress.door import EgressEngine
from offload.egress.permission import ConsentOnce
from offload.egress.privacy.closed_text import closed_part
from offload.errors import LinkError
from offload.messages import Request, Usage
from offload.policy.serving.dispatch import num_chars


class VisitGate:
    """Visit gate of one request: consent, values that may have begun, and the request's budget.

    The door looks at each visit as at any other text; what is looked at here depends on those
    before it.
    """

    def __init__(self, cloud: EgressEngine, request: Request, may_leave: ConsentOnce) -> None:
        self._cloud, self._request, self._may_leave = cloud, request, may_leave
        self._values: tuple[str, ...] | None = None  # that would be replaced in the request

    async def lets(self, visit: Request, spent: Usage) -> bool:
        """Whether a visit may be made, where the visits before it took `spent`."""
        if not self._affords(visit, spent) or not await self._may_leave():
            return False
        return await self.closed(visit.answer_prefix) == visit.answer_prefix

    async def closed(self, text: str) -> str:
        """Return the part of a beginning that may leave: no value has begun at its end."""
        if self._values is None:
            try:
                self._values = await self._cloud.private_values(self._request)
            except LinkError:
                return ""  # the door will say so, if it is asked
        return closed_part(text, self._values)

    def _affords(self, visit: Request, spent: Usage) -> bool:
        budget, prices = self._request.budget, self._cloud.door.prices
        size = num_chars(visit) + len(visit.answer_prefix)
        cost = prices.expected_cost(size, visit.sampling.max_tokens)
        if budget.max_cost is not None and spent.cost + cost > budget.max_cost:
            return False
        limit = budget.max_bytes_sent
        return limit is None or spent.bytes_sent + size <= limit
