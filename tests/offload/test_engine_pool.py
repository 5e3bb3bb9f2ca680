"""Engines in memory: opened when asked, closed when idle, never while they answer."""

from __future__ import annotations

import asyncio
import threading

import pytest

from offload.engine_pool import EnginePool
from offload.errors import Overloaded
from tests.offload.scripted import ScriptedEngine
from tests.waiting import until


class Library:
    """Opens engines by name, and notes what was opened and closed."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.closed = asyncio.Event()

    def open(self, name: str) -> ScriptedEngine:
        self.log.append(f"+{name}")
        engine = ScriptedEngine([name])

        async def aclose() -> None:
            self.log.append(f"-{name}")
            self.closed.set()

        engine.aclose = aclose  # type: ignore[method-assign]
        return engine


async def test_an_idle_engine_is_closed_after_its_time_and_not_before() -> None:
    library = Library()
    pool = EnginePool(library.open, has_room=lambda *_: True, keep_alive_s=0.01)
    async with pool.in_use("a"):
        async with pool.in_use("a", keep_alive_s=0.0):
            pass
        await asyncio.sleep(0.03)  # its time is up, but it is in use
        assert pool.loaded == ("a",) and pool.resident()[0].expires_at is None
    assert pool.resident()[0].expires_at is not None
    await library.closed.wait()
    assert (pool.loaded, library.log) == ((), ["+a", "-a"])
    async with pool.in_use("a"):
        assert library.log[-1] == "+a"
    await pool.aclose()


async def test_a_negative_time_keeps_it_and_a_new_one_counts_anew() -> None:
    library = Library()
    pool = EnginePool(library.open, has_room=lambda *_: True, keep_alive_s=0.0)
    async with pool.in_use("a", keep_alive_s=-1):
        pass
    assert pool.resident()[0].expires_at is None
    async with pool.in_use("a", keep_alive_s=60):
        pass
    assert pool.loaded == ("a",)
    assert await pool.close_one("a") and await pool.close_one("never there")
    assert library.log == ["+a", "-a"]


async def test_where_all_answer_the_next_waits_or_is_refused() -> None:
    library = Library()
    pool = EnginePool(library.open, has_room=lambda _, loaded: not loaded)
    leave = asyncio.Event()

    async def hold() -> None:
        async with pool.in_use("a"):
            assert not await pool.close_one("a"), "what answers stays"
            await leave.wait()

    async def other() -> None:
        async with pool.in_use("b"):
            pass

    first = asyncio.create_task(hold())
    await until(lambda: bool(pool.loaded))
    second = asyncio.create_task(other())
    await asyncio.sleep(0.01)
    assert library.log == ["+a"]
    leave.set()
    await asyncio.gather(first, second)
    assert library.log == ["+a", "-a", "+b"]

    strict = EnginePool(library.open, has_room=lambda _, loaded: not loaded, busy="all are in use")
    async with strict.in_use("a"):
        with pytest.raises(Overloaded, match="in use"):
            async with strict.in_use("b"):
                pass


async def test_an_engine_that_cannot_be_opened_leaves_the_others() -> None:
    def broken(name: str) -> ScriptedEngine:
        raise ValueError(name)

    pool = EnginePool(broken, has_room=lambda *_: True)
    for _ in range(2):
        with pytest.raises(ValueError, match="x"):
            async with pool.in_use("x"):
                pass
    assert pool.loaded == ()


async def test_an_engine_whose_asker_left_while_it_was_opened_is_known_and_closed() -> None:
    library, opening, go_on = Library(), threading.Event(), threading.Event()

    def slow(name: str) -> ScriptedEngine:
        opening.set()
        go_on.wait()
        return library.open(name)

    pool = EnginePool(slow, has_room=lambda *_: True, keep_alive_s=0.0)

    async def ask() -> None:
        async with pool.in_use("a"):
            pytest.fail("it has left")

    asker = asyncio.create_task(ask())
    await asyncio.to_thread(opening.wait)
    asker.cancel()
    await asyncio.gather(asker, return_exceptions=True)
    go_on.set()
    await library.closed.wait()
    assert library.log == ["+a", "-a"]
    await pool.aclose()
