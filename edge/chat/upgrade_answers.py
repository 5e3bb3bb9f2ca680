"""Answer upgrades: asks the outbox's questions again when the far model is back.

The far answer is kept beside the first one, in the conversation that both belong to.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable

from backbone.errors import NearfarError
from edge.conversations.conversation import LaterAnswer
from edge.conversations.store import Conversations
from offload.egress.outbox import OUT_OF_REACH, Outbox, OutboxEntry
from offload.egress.permission import EgressContext
from offload.engine import Engine
from offload.errors import SettingsError
from offload.event_waiting import set_within
from offload.hybrid.hybrid import Hybrid
from offload.messages import Finish

_log = logging.getLogger("nearfar.outbox")
_STRAY_S = 60.0  # after which a question that no turn waits for was taken back


class AnswerUpgrader:
    """Answer upgrader: asks again what waits, at most every `first_s`, then more seldom."""

    def __init__(
        self,
        outbox: Outbox,
        store: Conversations,
        *,
        first_s: float = 2.0,
        longest_s: float = 120.0,
    ) -> None:
        self._outbox, self._store = outbox, store
        self._first_s, self._longest_s = first_s, longest_s
        self._nudged = asyncio.Event()

    def nudge(self) -> None:
        """Say that now is a good moment to look."""
        self._nudged.set()

    async def look(self, engine: Engine) -> int:
        """Ask what waits, if the engine has a cloud; return how many better answers came."""
        cloud, num_better = _cloud(engine), 0
        try:
            self._let_go()
            if cloud is None:
                return 0
            self._forget_strays()
            betters = self._outbox.run(cloud, wanted=lambda each: self._store.awaits(each.id))
            async for better in betters:
                beside = LaterAnswer(content=better.answer, finish=better.finish)
                num_better += self._store.better(better.waiting.id, beside)
            self._let_go()
        except (NearfarError, OSError) as error:
            _log.warning("what waits for the cloud cannot be asked again: %s", error)
        return num_better

    def _let_go(self) -> None:
        """Let no turn wait for what the outbox has given up, or what was forgotten elsewhere."""
        self._store.stop_waiting(lambda: [each.id for each in self._outbox.pending()])

    def _forget_strays(self) -> None:
        """Forget what a person took back, or had answered anew, while it waited."""
        for each in self._outbox.pending():
            if self._is_stray(each):
                self._outbox.forget(each.id)

    def _is_stray(self, each: OutboxEntry) -> bool:
        settled = time.time() - each.queued_at > _STRAY_S
        return settled and each.request.session is not None and not self._store.awaits(each.id)

    @contextlib.asynccontextmanager
    async def watching(self, engine: Callable[[], Engine]) -> AsyncIterator[None]:
        """Look again and again while the block runs; `engine` tells which one stands now."""
        job = asyncio.ensure_future(self._watch(engine))
        try:
            yield
        finally:
            job.cancel()
            await asyncio.wait([job])

    async def _watch(self, engine: Callable[[], Engine]) -> None:
        pause_s = self._first_s
        while True:
            found = await self.look(engine())
            pause_s = self._first_s if found else min(2 * pause_s, self._longest_s)
            if await set_within(self._nudged, pause_s):
                pause_s = self._first_s
            self._nudged.clear()


def _cloud(engine: Engine) -> Engine | None:
    cloud = engine.cloud if isinstance(engine, Hybrid) else None
    context = EgressContext(reason="asked_again", attended=False)
    return cloud.within(context) if cloud is not None else None


def waiting_line(outbox: Outbox) -> str:
    """Return what waits and how to have it asked, empty where nothing does.

    What a conversation left waiting is its own business: it is asked again there.
    """
    try:
        count = sum(each.request.session is None for each in outbox.pending())
    except SettingsError as error:
        return str(error)
    if not count:
        return ""
    waits = "1 earlier question waits" if count == 1 else f"{count} earlier questions wait"
    return f"{waits} for the far model; only `nearfar policy outbox --ask` sends what waits"


def is_in_reach(finish: Finish) -> bool:
    """Return whether nothing in this answer says that the cloud is out of reach."""
    route = finish.route
    if route is None or route.failure is not None:
        return False
    return route.reason not in OUT_OF_REACH | {"no_cloud", "local_only"}
