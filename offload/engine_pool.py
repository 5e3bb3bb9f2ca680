"""Engine pool: engines in memory by key, opened when they are asked, closed for others or idle."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Coroutine, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from offload.engine import Breakable, Engine
from offload.errors import Overloaded

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


@dataclass(eq=False)
class _Loaded:
    engine: Engine
    pinned: bool = False
    num_running: int = 0
    expires_at: float | None = None  # of time.time(); None: never, or an answer is being written
    timer: asyncio.TimerHandle | None = None

    def stay(self) -> None:
        """Let it not be closed for being idle."""
        if self.timer is not None:
            self.timer.cancel()
        self.timer = self.expires_at = None


@dataclass(frozen=True, kw_only=True)
class ResidentEngine(Generic[K]):
    """One engine in memory; `expires_at`, of time.time(), is when it is closed."""

    key: K
    engine: Engine
    num_running: int
    expires_at: float | None


class EnginePool(Generic[K]):
    """Engines by key: for one that is asked, the one that was asked longest ago gives way.

    `open_engine` may take its time; it is called in a thread, one call at a time, since memory is
    what is short. `has_room(key, loaded)` says whether one more fits beside those loaded, the
    longest unasked first. An engine that is answering or pinned is never closed: where only such
    are left, a caller waits for one to be done, or is refused with `busy`. An engine nobody has
    asked for `keep_alive_s` is closed; negative: never.
    """

    def __init__(
        self,
        open_engine: Callable[[K], Engine],
        *,
        has_room: Callable[[K, Sequence[K]], bool],
        keep_alive_s: float = -1.0,
        busy: str | None = None,
    ) -> None:
        self._open, self._has_room = open_engine, has_room
        self._keep_alive_s, self._busy = keep_alive_s, busy
        self._loaded: OrderedDict[K, _Loaded] = OrderedDict()  # the longest unasked first
        self._loading = asyncio.Lock()
        self._released = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def loaded(self) -> tuple[K, ...]:
        """The keys in memory, the longest unasked first."""
        return tuple(self._loaded)

    def resident(self) -> list[ResidentEngine[K]]:
        """Return how each engine in memory stands, the one asked last first."""
        return [
            ResidentEngine(
                key=key,
                engine=each.engine,
                num_running=each.num_running,
                expires_at=each.expires_at,
            )
            for key, each in reversed(self._loaded.items())
        ]

    def peek(self, key: K) -> Engine | None:
        """Return the engine of a key where it is in memory."""
        loaded = self._loaded.get(key)
        return loaded.engine if loaded else None

    @contextlib.asynccontextmanager
    async def in_use(
        self, key: K, *, pinned: bool = False, keep_alive_s: float | None = None
    ) -> AsyncIterator[Engine]:
        """Hold an engine in memory while the block lasts. Raises Overloaded, and what opening did.

        `keep_alive_s` is how long it stays after this, in place of the pool's own.
        """
        taking = self._in_background(self._take(key))
        try:
            loaded = await asyncio.shield(taking)
        except asyncio.CancelledError:
            # Who goes away while a model is loaded must not leave it loaded, and unknown.
            taking.add_done_callback(lambda done: self._unwanted(key, done))
            raise
        loaded.pinned = pinned
        try:
            yield loaded.engine
        finally:
            self._give_back(key, loaded, keep_alive_s)

    def _unwanted(self, key: K, taken: asyncio.Task[_Loaded]) -> None:
        if not taken.cancelled() and taken.exception() is None:
            self._give_back(key, taken.result(), None)

    def _give_back(self, key: K, loaded: _Loaded, keep_alive_s: float | None) -> None:
        loaded.num_running -= 1
        self._released.set()
        if not loaded.num_running:
            wanted = self._keep_alive_s if keep_alive_s is None else keep_alive_s
            self._expire_in(key, loaded, wanted)

    def let_go(self, key: K) -> None:
        """Let an engine that was to stay be closed when it has been idle as long as others."""
        loaded = self._loaded.get(key)
        if loaded is not None and not loaded.num_running:
            self._expire_in(key, loaded, self._keep_alive_s)

    async def close_one(self, key: K) -> bool:
        """Close an engine unless it is answering; return whether it is out of memory now."""
        async with self._loading:
            loaded = self._loaded.get(key)
            if loaded is not None and loaded.num_running:
                return False
            await self._close(key)
            return True

    async def aclose(self) -> None:
        """Close every engine."""
        await asyncio.gather(*self._tasks, return_exceptions=True)
        while self._loaded:
            await self._close(next(iter(self._loaded)))

    async def _take(self, key: K) -> _Loaded:
        async with self._loading:
            if key in self._loaded and _is_broken(self._loaded[key].engine):
                await self._close(key)
            if key not in self._loaded:
                await self._make_room(key)
                self._loaded[key] = _Loaded(await asyncio.to_thread(self._open, key))
            self._loaded.move_to_end(key)
            loaded = self._loaded[key]
            loaded.num_running += 1
            loaded.stay()
            return loaded

    async def _make_room(self, key: K) -> None:
        while not self._has_room(key, self.loaded):
            idle = [k for k, each in self._loaded.items() if not (each.num_running or each.pinned)]
            if idle:
                await self._close(idle[0])
            elif self._busy is not None:
                raise Overloaded(self._busy, 5.0)
            else:
                self._released.clear()
                await self._released.wait()

    async def _close(self, key: K) -> None:
        loaded = self._loaded.pop(key, None)
        if loaded is not None:
            loaded.stay()
            await loaded.engine.aclose()

    def _expire_in(self, key: K, loaded: _Loaded, wait_s: float) -> None:
        if wait_s < 0 or self._loaded.get(key) is not loaded:
            return
        loaded.stay()
        loaded.expires_at = time.time() + wait_s
        loaded.timer = asyncio.get_running_loop().call_later(wait_s, self._expire, key)

    def _expire(self, key: K) -> None:
        self._in_background(self._expired(key))

    def _in_background(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # which nobody may be left to hear

    async def _expired(self, key: K) -> None:
        async with self._loading:
            loaded = self._loaded.get(key)
            # Who has asked meanwhile has taken the time away.
            if loaded is not None and loaded.expires_at is not None and not loaded.num_running:
                await self._close(key)


def _is_broken(engine: Engine) -> bool:
    return isinstance(engine, Breakable) and engine.broken() is not None
