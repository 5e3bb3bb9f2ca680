"""Admission: which requests run, wait or are refused, by key, and fairly between keys.

What cannot be taken is refused before its body is read, so that a refusal costs next to nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter as Counts
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Sequence

from prometheus_client import Counter

from offload.link.quota import QuotaMeter, Reservation
from offload.messages import Delta, Finish, Request
from serve.auth import ANYONE
from serve.http_errors import TooMany
from serve.metrics import Metrics

_MOST_WAIT_S = 60.0
_MEMORY = 0.1  # weight of the newest answer in the mean


class Admission:
    """Admission of `max_running` HTTP requests at once, and `max_queued` of each tenant that wait.

    Whose turn it is goes round between tenants, so that one who asks much holds up only itself.
    One tenant with a key holds three of four places at most: another finds one at once.
    """

    def __init__(
        self,
        *,
        max_running: int,
        max_queued: int,
        meter: QuotaMeter,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_running, self._max_queued = max_running, max_queued
        self._meter, self._metrics, self._clock = meter, metrics, clock
        self._queues: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        self._running_of: Counts[str] = Counts()
        self._mean_s = 1.0  # of an answer, from start to end
        self.num_running = 0

    @property
    def num_queued(self) -> int:
        """How many requests wait for their turn."""
        return sum(len(queue) for queue in self._queues.values())

    def check(self, tenant: str) -> None:
        """Raise TooMany where this tenant may not ask now."""
        wait = self._meter.why_not(tenant)
        if wait is not None:
            raise TooMany(wait.why, wait.seconds)
        queued = len(self._queues.get(tenant, ()))
        if not self._has_place(tenant) and queued >= self._max_queued:
            rounds = (self.num_queued + 1) / self._max_running
            wait_s = min(_MOST_WAIT_S, self._mean_s * rounds)
            raise TooMany(
                f"{queued} requests of this key wait already; ask again in {wait_s:.0f} s", wait_s
            )

    @contextlib.asynccontextmanager
    async def place(
        self, tenant: str, requests: Sequence[Request] = ()
    ) -> AsyncIterator[list[Account]]:
        """Hold a place while the block lasts, once there is one, and yield each answer's account.

        What the answers may use is held from before they wait. Raises TooMany.
        """
        self.check(tenant)
        num_answers = max(1, len(requests))
        for _ in range(num_answers):
            self._meter.count_request(tenant)
        self._metrics.tenant_requests.labels(tenant).inc(num_answers)
        accounts = [self.account(tenant, request) for request in requests]
        try:
            await self._turn(tenant)
        except BaseException:
            for account in accounts:
                account.close(failed=True)
            raise
        began_s = self._clock()
        try:
            yield accounts
        finally:
            for account in accounts:
                account.close()
            self._mean_s += _MEMORY * (self._clock() - began_s - self._mean_s)
            self._pass_on(tenant)

    def account(self, tenant: str, request: Request) -> Account:
        """Return what counts one answer's tokens for a tenant; what it may use is held from now."""
        tokens = self._metrics.tenant_tokens.labels(tenant)
        return Account(self._meter.reserve(tenant, request), self._meter, tokens)

    async def _turn(self, tenant: str) -> None:
        if self._has_place(tenant):
            self._give_place(tenant)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queues.setdefault(tenant, deque()).append(turn)
        self._metrics.queued.inc()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._pass_on(tenant)  # the place was given in the same moment
            else:
                self._leave(tenant, turn)
            raise
        finally:
            self._metrics.queued.dec()

    def _has_place(self, tenant: str) -> bool:
        max_of_tenant = self._max_running
        if tenant != ANYONE and max_of_tenant > 1:
            max_of_tenant -= max(1, max_of_tenant // 4)
        return self.num_running < self._max_running and self._running_of[tenant] < max_of_tenant

    def _give_place(self, tenant: str) -> None:
        self.num_running += 1
        self._running_of[tenant] += 1

    def _pass_on(self, left: str) -> None:
        """Give the place that `left` had to the next tenant's oldest request."""
        self.num_running -= 1
        self._running_of[left] -= 1
        if not self._running_of[left]:
            del self._running_of[left]
        for tenant in list(self._queues):
            queue = self._queues[tenant]
            while queue and self._has_place(tenant):
                turn = queue.popleft()
                if turn.done():
                    continue
                self._queues.move_to_end(tenant)  # behind the others
                self._give_place(tenant)
                turn.set_result(None)
                break
            if not queue:
                del self._queues[tenant]
            if self.num_running >= self._max_running:
                return

    def _leave(self, tenant: str, turn: asyncio.Future[None]) -> None:
        queue = self._queues.get(tenant)
        if queue is not None and turn in queue:
            queue.remove(turn)
            if not queue:
                del self._queues[tenant]


class Account:
    """Account of one answer's tokens as they come, also where it is left in the middle."""

    def __init__(self, reserved: Reservation, meter: QuotaMeter, tokens: Counter) -> None:
        self._reserved, self._meter, self._tokens = reserved, meter, tokens

    def see(self, item: Delta | Finish) -> None:
        """Count the next item of the answer."""
        self._tokens.inc(self._reserved.see(item))
        if isinstance(item, Finish):
            self._meter.save(now=True)

    def close(self, *, failed: bool = False) -> None:
        """Give back what was not used. Of an answer that failed only what was written counts."""
        if failed:
            self._reserved.refused()
        self._tokens.inc(self._reserved.left())
