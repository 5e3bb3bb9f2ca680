"""On-demand engine: a near model in memory while it is asked, and for a while behind that."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import replace
from pathlib import Path

from backbone.process_limits import free_memory_bytes
from edge.models.local_models import find_model, memory_needed
from edge.models.model_card import card_of
from edge.near.edge_factory import open_edge
from offload.config.places import Places
from offload.config.settings import EdgeSettings, Settings
from offload.durations import seconds_of
from offload.engine import (
    AnswerStream,
    Embedding,
    Engine,
    ForwardsTokenizing,
    HiddenStateSource,
    LoadReporting,
    SessionKeeping,
    StateObserver,
    Tokenizing,
)
from offload.engine_pool import EnginePool
from offload.errors import Unsupported
from offload.messages import EngineLoad, ModelCard, Request


def open_pool(
    settings: Settings, here: Places, *, free_bytes: Callable[[], int] = free_memory_bytes
) -> EnginePool[EdgeSettings]:
    """Return near engines by their settings, as many at once as the memory that is free holds.

    A settings' model is the path of the model.
    """

    def has_room(key: EdgeSettings, loaded: Sequence[EdgeSettings]) -> bool:
        return not loaded or memory_needed(Path(key.model)) <= free_bytes()

    def open_one(key: EdgeSettings) -> Engine:
        return open_edge(replace(settings, edge=key), here, serving=True)

    keep_alive_s = seconds_of(settings.edge.keep_alive, "edge.keep_alive")
    return EnginePool(open_one, has_room=has_room, keep_alive_s=keep_alive_s)


class OnDemandEngine(ForwardsTokenizing):
    """Engine of one near model in a pool; closing it leaves the model to the pool."""

    def __init__(
        self,
        pool: EnginePool[EdgeSettings],
        edge: EdgeSettings,
        here: Places,
        *,
        keep_alive_s: float | None = None,
    ) -> None:
        """Read the head of the model's file. Raises CheckpointError where there is none to run."""
        self.path = find_model(edge.model, here.models)
        self._card = card_of(self.path)
        self._pool, self._keep_alive_s = pool, keep_alive_s
        self._key = replace(edge, model=str(self.path.absolute()))
        self._observers: dict[str, StateObserver] = {}

    def card(self) -> ModelCard:
        """Return what the model is; its context is as long as it may be until it was loaded."""
        if (engine := self._pool.peek(self._key)) is not None:
            self._card = engine.card()
        return self._card

    def in_use(self, keep_alive_s: float | None = None) -> AbstractAsyncContextManager[Engine]:
        """Hold the model in memory while the block lasts. See OnDemand."""
        wanted = self._keep_alive_s if keep_alive_s is None else keep_alive_s
        return self._pool.in_use(self._key, keep_alive_s=wanted)

    async def generate(self, request: Request) -> AnswerStream:
        """Stream the answer, loading the model first if need be."""
        async with self.in_use() as engine:
            with self._shown(engine, request.id):
                async with contextlib.aclosing(engine.generate(request)) as items:
                    async for item in items:
                        yield item

    @contextlib.contextmanager
    def _shown(self, engine: Engine, request_id: str) -> Iterator[None]:
        observer = self._observers.get(request_id)
        if observer is None or not isinstance(engine, HiddenStateSource):
            yield
            return
        with engine.watch(request_id, observer):
            yield

    @contextlib.contextmanager
    def _watching(self, request_id: str, observer: StateObserver) -> Iterator[None]:
        self._observers[request_id] = observer
        try:
            yield
        finally:
            del self._observers[request_id]

    def watch(self, request_id: str, observer: StateObserver) -> AbstractContextManager[None]:
        """Show an answer's hidden states, where the model's engine can. See HiddenStateSource."""
        return self._watching(request_id, observer)

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Return one vector per text. Raises Unsupported where the model makes none."""
        async with self.in_use() as engine:
            if not isinstance(engine, Embedding):
                raise Unsupported("this model makes no embeddings; choose a GGUF file for it")
            return await engine.embed(texts)

    def _tokenizing(self) -> Tokenizing:
        engine = self._pool.peek(self._key)
        if not isinstance(engine, Tokenizing):
            raise Unsupported("the model is not in memory; ask it something first")
        return engine

    async def forget(self, session: str) -> None:
        """Forget what is kept of a conversation in memory. See SessionKeeping."""
        engine = self._pool.peek(self._key)
        if isinstance(engine, SessionKeeping):
            await engine.forget(session)

    def report(self) -> EngineLoad | None:
        """Return the model's load while it is in memory. See LoadReporting."""
        engine = self._pool.peek(self._key)
        return engine.report() if isinstance(engine, LoadReporting) else None

    async def aclose(self) -> None:
        """Leave the model to the pool, which keeps it no longer than others."""
        self._pool.let_go(self._key)
