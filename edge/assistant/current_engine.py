"""The engine that stands behind the page now, as one engine for whoever else asks it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing

from offload.engine import AnswerStream, Choosing, Engine, Named
from offload.messages import ModelCard, Request


class Current:
    """Answers by the engine that `engine` tells: another one after a change of settings.

    What its owner must not interrupt is counted in `num_running`.
    """

    def __init__(self, engine: Callable[[], Engine]) -> None:
        self._engine = engine
        self.num_running = 0

    def card(self) -> ModelCard:
        """Return what the engine runs now."""
        return self._engine().card()

    def names(self) -> tuple[str, ...]:
        """Return every name the engine answers to now."""
        engine = self._engine()
        return engine.names() if isinstance(engine, Named) else (engine.card().name,)

    def may_replace(self, request: Request) -> bool:
        """Whether text of this request's answer may be withdrawn later."""
        engine = self._engine()
        return isinstance(engine, Choosing) and engine.may_replace(request)

    async def generate(self, request: Request) -> AnswerStream:
        """Stream the answer; see Engine."""
        self.num_running += 1
        try:
            async with aclosing(self._engine().generate(request)) as items:
                async for item in items:
                    yield item
        finally:
            self.num_running -= 1

    async def aclose(self) -> None:
        """Close nothing: the engine is another's."""
