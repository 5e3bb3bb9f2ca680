"""Readiness: whether the engine has answered once, which warms it up, and still can."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

from backbone.errors import NearfarError
from offload.engine import Engine, fault_of
from offload.warm_up import warm_up

_log = logging.getLogger(__name__)
_RETRY_S = 2.0


class Readiness:
    """Readiness of an engine: it is asked for one token until it gives one, then whether it broke.

    `is_ready` from the start is one that loads its model when it is asked.
    """

    def __init__(self, engine: Engine, *, is_ready: bool = False) -> None:
        self._engine = engine
        self.is_ready = is_ready
        self.failure: str | None = None

    def why_not(self) -> str | None:
        """Return why it is of no use to ask now, or None where it is."""
        if not self.is_ready:
            return self.failure or "the engine is warming up"
        return fault_of(self._engine)

    @contextlib.asynccontextmanager
    async def warming(self) -> AsyncIterator[None]:
        """Warm up in the background while the block lasts."""
        task = asyncio.create_task(self._until_ready())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            self.is_ready = False

    async def _until_ready(self) -> None:
        while not self.is_ready:
            try:
                await warm_up(self._engine)
                self.is_ready, self.failure = True, None
            except NearfarError as error:
                self.failure = str(error)
            except Exception as error:  # of an error that is not ours, only the kind is told
                self.failure = f"the engine broke ({type(error).__name__})"
            if self.failure is not None:
                _log.warning("not ready: %s", self.failure)
                await asyncio.sleep(_RETRY_S)
