"""Loading the near model while its person already types: the first prompt waits for nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from edge.chat.screen import Screen
from offload.engine import Engine


class Opening:
    """An engine that is loaded in a thread of its own, once."""

    def __init__(self, open_engine: Callable[[], Engine]) -> None:
        self._open = open_engine
        self._once = asyncio.Lock()
        self.loaded: Engine | None = None  # until it is there

    async def engine(self) -> Engine:
        """Return the engine when it is there. Raises what opening it raised."""
        async with self._once:
            if self.loaded is None:
                self.loaded = await asyncio.to_thread(self._open)
        return self.loaded

    async def meanwhile(self, screen: Screen) -> str | None:
        """Load, and return what is typed meanwhile; None where the person leaves.

        Raises what opening the engine raised, as soon as it is known: the prompt is taken away.
        """
        reading = asyncio.ensure_future(screen.read())
        await asyncio.sleep(0)  # by its first step the prompt is drawn: imports would hold it up
        loading = asyncio.ensure_future(self.engine())
        await asyncio.wait([reading, loading], return_when=asyncio.FIRST_COMPLETED)
        if loading.done() and loading.exception() is not None:
            reading.cancel()
            await asyncio.wait([reading])
        await loading
        try:
            return await reading
        except EOFError:
            return None
