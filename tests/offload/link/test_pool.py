from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from offload.engine import Engine
from offload.errors import (
    CloudFailed,
    CloudUnreachable,
    LinkError,
    Overloaded,
    RequestError,
    SettingsError,
)
from offload.link import wire
from offload.link.backoff import Backoff, Breaker
from offload.link.client import CloudLink
from offload.link.pool import CloudPool
from offload.link.server import LinkServer
from offload.messages import Finish
from tests.offload.links import DEADLINE_S, answer, ask, nowhere, serving, text_of
from tests.offload.scripted import CARD, ScriptedEngine, delta


def link_to(endpoint: str, timeout_s: float = DEADLINE_S) -> CloudLink:
    return CloudLink(endpoint, connect_timeout_s=timeout_s, patience_s=0)


@pytest.fixture
def gone() -> Iterator[CloudLink]:
    """A link to a cloud that is not there."""
    with nowhere() as endpoint:
        yield link_to(endpoint, timeout_s=0.2)


async def test_a_pool_is_an_engine_and_passes_over_a_cloud_that_is_gone(gone: CloudLink) -> None:
    async with serving(ScriptedEngine()) as server:
        pool = CloudPool([gone, link_to(server.endpoint)])
        assert isinstance(pool, Engine)
        for _ in range(5):
            assert text_of(await answer(pool, ask())) == "one two three"
        assert pool.card() == CARD
        assert pool.health().alive
        await pool.aclose()


async def test_without_any_cloud_the_error_names_each(gone: CloudLink) -> None:
    with nowhere() as endpoint:
        pool = CloudPool([gone, link_to(endpoint, timeout_s=0.2)])
        with pytest.raises(CloudUnreachable) as caught:
            await pool.connect()
        assert gone.endpoint in str(caught.value) and endpoint in str(caught.value)
        await pool.aclose()


async def test_an_open_breaker_answers_at_once_and_closes_when_the_cloud_is_back(
    tmp_path: Path,
) -> None:
    now = [0.0]

    def breaker() -> Breaker:
        return Breaker(max_failures=1, backoff=Backoff(10, draw=lambda: 1.0), clock=lambda: now[0])

    endpoint = f"ipc://{tmp_path}/link"
    link = link_to(endpoint, timeout_s=0.2)
    pool = CloudPool([link], breaker=breaker)
    with pytest.raises(CloudUnreachable, match="nothing answers"):
        await answer(pool, ask())
    with pytest.raises(CloudUnreachable, match="next attempt is in 10 s"):
        await answer(pool, ask())
    async with serving(ScriptedEngine(), endpoint=endpoint):
        now[0], link.connect_timeout_s = 11, DEADLINE_S
        assert text_of(await answer(pool, ask())) == "one two three"
        assert text_of(await answer(pool, ask())) == "one two three"
        await pool.aclose()


async def test_a_cloud_lost_in_mid_answer_is_told_and_not_replaced() -> None:
    engine, other = ScriptedEngine(hold=asyncio.Event()), ScriptedEngine()
    first = LinkServer(engine)
    await first.start()
    async with serving(other) as second:
        links = [link_to(first.endpoint, timeout_s=0.2), link_to(second.endpoint)]
        await links[0].connect(DEADLINE_S)
        pool = CloudPool(links, draw=lambda: 0.5)
        items = pool.generate(ask())
        assert await anext(items) == delta("one")  # type: ignore[arg-type]
        await first.aclose()
        with pytest.raises(CloudUnreachable):
            await anext(items)  # type: ignore[arg-type]
        assert other.requests == []
        assert text_of(await answer(pool, ask())) == "one two three"
        await pool.aclose()


async def test_a_bad_request_says_nothing_against_the_cloud() -> None:
    engine = ScriptedEngine(error=RequestError("top_k is silly"))
    async with serving(engine) as server:
        pool = CloudPool([link_to(server.endpoint)], breaker=lambda: Breaker(max_failures=1))
        for _ in range(3):
            with pytest.raises(RequestError):
                await answer(pool, ask())
        await pool.aclose()


async def test_a_broken_engine_is_passed_over() -> None:
    broken = ScriptedEngine(error=CloudFailed("the GPU is gone; call someone"))
    async with serving(broken) as first, serving(ScriptedEngine()) as second:
        pool = CloudPool([link_to(first.endpoint), link_to(second.endpoint)])
        for _ in range(8):
            assert text_of(await answer(pool, ask())) == "one two three"
        assert len(broken.requests) <= 3
        await pool.aclose()


async def test_a_busy_cloud_is_passed_over_and_what_it_was_sent_is_counted() -> None:
    busy = ScriptedEngine(error=Overloaded("the queue is full", retry_after_s=3))
    async with serving(busy) as first, serving(ScriptedEngine()) as second:
        links = [link_to(first.endpoint), link_to(second.endpoint)]
        await links[0].connect()  # so that it is asked first
        pool = CloudPool(links, draw=lambda: 0.5)
        items = await answer(pool, request := ask())
        assert text_of(items) == "one two three"
        assert isinstance(items[-1], Finish)
        assert items[-1].usage.bytes_sent == 2 * len(wire.encode(request, request.id))
        await pool.aclose()


async def test_where_all_are_busy_the_soonest_is_told() -> None:
    async with contextlib.AsyncExitStack() as stack:
        engines = [ScriptedEngine(error=Overloaded("full", retry_after_s=s)) for s in (9, 4)]
        servers = [await stack.enter_async_context(serving(engine)) for engine in engines]
        pool = CloudPool([link_to(server.endpoint) for server in servers])
        with pytest.raises(Overloaded) as caught:
            await answer(pool, request := ask())
        assert caught.value.retry_after_s == 4
        assert isinstance(caught.value, LinkError)
        assert caught.value.bytes_sent == 2 * len(wire.encode(request, request.id))
        await pool.aclose()


async def test_the_standing_of_a_pool_is_that_of_the_cloud_that_would_be_asked(
    gone: CloudLink,
) -> None:
    async with serving(ScriptedEngine()) as server:
        pool = CloudPool([gone, link_to(server.endpoint)], breaker=lambda: Breaker())
        await answer(pool, ask())
        assert pool.snapshot().healthy and pool.snapshot().rtt_s is not None
        await pool.aclose()
    with nowhere() as endpoint:
        alone = CloudPool(
            [link_to(endpoint, timeout_s=0.2)], breaker=lambda: Breaker(max_failures=1)
        )
        assert alone.snapshot().healthy, "nothing speaks against it yet"
        with pytest.raises(CloudUnreachable):
            await answer(alone, ask())
        assert not alone.snapshot().healthy
        await alone.aclose()


async def test_the_work_is_spread() -> None:
    async with contextlib.AsyncExitStack() as stack:
        engines = [ScriptedEngine() for _ in range(2)]
        servers = [await stack.enter_async_context(serving(engine)) for engine in engines]
        pool = CloudPool([link_to(server.endpoint) for server in servers])
        await asyncio.gather(*(answer(pool, ask()) for _ in range(40)))
        counts = Counter({n: len(engine.requests) for n, engine in enumerate(engines)})
        assert min(counts.values()) >= 1
        await pool.aclose()


def test_a_pool_needs_a_cloud() -> None:
    with pytest.raises(SettingsError, match=r"cloud\.url"):
        CloudPool([])
