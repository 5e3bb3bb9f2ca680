from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from offload.engine import Engine
from offload.errors import CloudFailed, CloudUnreachable
from offload.link import message_bodies, wire
from offload.link.client import CloudLink
from offload.link.health import HeartbeatTimes
from offload.link.running_requests import AnswerLimits
from offload.link.server import LinkServer
from offload.messages import Delta, Finish
from tests.offload.chaos import Chaos
from tests.offload.links import (
    DEADLINE_S,
    HELLO,
    answer,
    ask,
    linked,
    raw_device,
    receive,
    send,
    serving,
    text_of,
    until,
)
from tests.offload.scripted import ScriptedEngine


@contextlib.asynccontextmanager
async def over_chaos(
    engine: Engine, *, limits: AnswerLimits | None = None, patience_s: float = DEADLINE_S
) -> AsyncIterator[tuple[LinkServer, Chaos, CloudLink]]:
    async with serving(engine, limits=limits) as server, Chaos(server.endpoint) as chaos:
        times = HeartbeatTimes(ping_after_s=0.1, dead_after_s=0.4)
        link = CloudLink(chaos.endpoint, patience_s=patience_s, times=times)
        try:
            yield server, chaos, link
        finally:
            await link.aclose()


async def test_a_cut_connection_loses_and_doubles_nothing() -> None:
    hold = asyncio.Event()
    words = [f"{i} " for i in range(100)]
    engine = ScriptedEngine(words, hold=hold, hold_before=50)
    async with over_chaos(engine) as (_, chaos, link):
        items = link.generate(ask())
        heard = [await anext(items) for _ in range(20)]  # type: ignore[arg-type]
        chaos.cut()
        hold.set()
        heard += [item async for item in items]
        assert chaos.num_connections >= 2
    assert text_of(heard) == "".join(words)
    assert [item.index for item in heard if isinstance(item, Delta)] == list(range(100))
    assert isinstance(heard[-1], Finish)
    assert len(engine.requests) == 1


async def test_many_answers_survive_many_cuts() -> None:
    words = [f"{i} " for i in range(200)]
    engine = ScriptedEngine(words, pause_s=0.002)
    async with over_chaos(engine) as (_, chaos, link):
        tasks = [asyncio.create_task(answer(link, ask())) for _ in range(20)]
        for number in range(1, 7):  # of 4,000 words
            await engine.until(lambda: engine.num_said.total() > 500 * number)  # noqa: B023
            chaos.cut()
        for items in await asyncio.wait_for(asyncio.gather(*tasks), DEADLINE_S):
            assert text_of(items) == "".join(words)
    assert len(engine.requests) == 20


async def test_a_blackhole_is_left_for_a_new_connection() -> None:
    hold = asyncio.Event()
    engine = ScriptedEngine(hold=hold)
    async with over_chaos(engine) as (_, chaos, link):
        task = asyncio.create_task(answer(link, ask()))
        await engine.until(lambda: len(engine.running) == 1)
        chaos.blackhole = True
        await until(lambda: not link.health().alive)
        chaos.blackhole = False
        hold.set()
        assert text_of(await asyncio.wait_for(task, DEADLINE_S)) == "one two three"
    assert len(engine.requests) == 1


async def test_a_half_open_connection_is_dead() -> None:
    hold = asyncio.Event()
    engine = ScriptedEngine(hold=hold)
    async with over_chaos(engine, patience_s=0.3) as (_, chaos, link):
        task = asyncio.create_task(answer(link, ask()))
        await engine.until(lambda: len(engine.running) == 1)
        chaos.half_open = True
        with pytest.raises(CloudUnreachable):
            await asyncio.wait_for(task, DEADLINE_S)


async def test_a_request_that_never_arrived_is_asked_once_over_the_new_connection() -> None:
    engine = ScriptedEngine()
    async with over_chaos(engine) as (_, chaos, link):
        await link.connect()
        chaos.blackhole = True
        task = asyncio.create_task(answer(link, ask(deadline_s=DEADLINE_S)))
        await until(lambda: not link.health().alive)
        chaos.blackhole = False
        assert text_of(await asyncio.wait_for(task, DEADLINE_S)) == "one two three"
    assert len(engine.requests) == 1
    assert 0 < (engine.requests[0].deadline_s or 0) < DEADLINE_S, "the time that passed is gone"


async def test_an_answer_of_a_cloud_that_restarted_is_not_asked_again() -> None:
    engine, again = ScriptedEngine(hold=asyncio.Event()), ScriptedEngine()
    async with serving(again) as reborn, over_chaos(engine) as (server, chaos, link):
        task = asyncio.create_task(answer(link, ask()))
        await engine.until(lambda: len(engine.running) == 1)
        chaos.retarget(reborn.endpoint)
        await server.aclose()
        with pytest.raises(CloudUnreachable, match="restarted"):
            await asyncio.wait_for(task, DEADLINE_S)
        assert again.requests == []
        assert text_of(await answer(link, ask())) == "one two three"


async def test_patience_ends() -> None:
    engine = ScriptedEngine(hold=asyncio.Event())
    async with over_chaos(engine, patience_s=0.2) as (_, chaos, link):
        task = asyncio.create_task(answer(link, ask()))
        await engine.until(lambda: len(engine.running) == 1)
        chaos.refuse = True
        chaos.cut()
        with pytest.raises(CloudUnreachable):
            await asyncio.wait_for(task, DEADLINE_S)


async def test_an_answer_nobody_comes_back_for_is_stopped() -> None:
    engine = ScriptedEngine(hold=asyncio.Event())
    limits = AnswerLimits(resume_s=0.2)
    async with over_chaos(engine, limits=limits, patience_s=0.1) as (server, chaos, link):
        request = ask()
        task = asyncio.create_task(answer(link, request))
        await engine.until(lambda: len(engine.running) == 1)
        server.times = HeartbeatTimes(ping_after_s=0.1, dead_after_s=0.3)
        chaos.refuse = True
        chaos.cut()
        with pytest.raises(CloudUnreachable):
            await task
        await engine.until(lambda: engine.cancelled == [request.id])
        await until(lambda: server.num_in_flight == 0)


async def test_a_request_said_twice_runs_once() -> None:
    engine = ScriptedEngine()
    request = ask()
    async with serving(engine) as server:
        with raw_device(server.endpoint) as device:
            await send(device, wire.encode(HELLO))
            await receive(device)
            for _ in range(3):
                await send(device, wire.encode(request, request.id))
                while (
                    wire.open_envelope(await receive(device)).kind is not message_bodies.Kind.FINISH
                ):
                    pass
    assert engine.requests == [request]


async def test_a_request_cancelled_or_forgotten_does_not_run_again() -> None:
    engine = ScriptedEngine(hold=asyncio.Event())
    request = ask()
    async with serving(engine) as server:
        with raw_device(server.endpoint) as device:
            await send(device, wire.encode(HELLO))
            await send(device, wire.encode(request, request.id))
            await engine.until(lambda: engine.running == {request.id})
            await send(device, wire.encode(message_bodies.Cancel(), request.id))
            await engine.until(lambda: engine.cancelled == [request.id])
            await send(device, wire.encode(request, request.id))
            body: message_bodies.AnyBody = HELLO
            while not isinstance(body, message_bodies.Failure):
                body = wire.open_body(wire.open_envelope(await receive(device)))
    assert "no longer holds" in body.message
    assert engine.requests == [request]


async def test_another_session_can_neither_hear_nor_stop_an_answer() -> None:
    engine = ScriptedEngine(hold=asyncio.Event())
    request = ask()
    async with serving(engine) as server:
        link = CloudLink(server.endpoint)
        task = asyncio.create_task(answer(link, request))
        await engine.until(lambda: len(engine.running) == 1)
        with raw_device(server.endpoint) as stranger:
            await send(stranger, wire.encode(HELLO))
            await receive(stranger)
            await send(stranger, wire.encode(message_bodies.Cancel(), request.id))
            await send(stranger, wire.encode(message_bodies.Resume(0, 99), request.id))
            body = wire.open_body(wire.open_envelope(await receive(stranger)))
        assert isinstance(body, message_bodies.Failure)
        assert engine.running == {request.id}
        task.cancel()
        await link.aclose()


async def test_a_slow_reader_stops_its_own_answer_and_no_other() -> None:
    words = [f"{i} " for i in range(500)]
    engine = ScriptedEngine(words)
    async with linked(engine, limits=AnswerLimits(window=16)) as (server, link):
        slow = link.generate(ask())
        heard = [await anext(slow)]  # type: ignore[arg-type]
        assert text_of(await answer(link, ask())) == "".join(words)
        await until(lambda: server.num_in_flight == 1)
        assert engine.num_said[engine.requests[0].id] <= 18
        heard += [item async for item in slow]
        assert text_of(heard) == "".join(words)


async def test_a_deadline_reaches_a_slow_reader() -> None:
    engine = ScriptedEngine([f"{i} " for i in range(500)])
    async with linked(engine, limits=AnswerLimits(window=16)) as (_, link):
        await link.connect()
        slow = link.generate(ask(deadline_s=0.5))
        await anext(slow)  # type: ignore[arg-type]
        await until(lambda: engine.cancelled == [engine.requests[0].id])
        rest = [item async for item in slow]
        assert isinstance(rest[-1], Finish) and rest[-1].reason == "deadline"


async def test_a_reader_that_never_reads_does_not_hold_the_engine_for_ever() -> None:
    engine = ScriptedEngine([f"{i} " for i in range(500)])
    async with linked(engine, limits=AnswerLimits(window=16, stall_s=0.1)) as (_, link):
        stuck = link.generate(request := ask())
        await anext(stuck)  # type: ignore[arg-type]
        await engine.until(lambda: engine.cancelled == [request.id])
        with pytest.raises(CloudFailed, match="not read for too long"):
            async for _item in stuck:
                pass


async def test_several_tokens_of_a_fast_engine_share_a_message() -> None:
    words = [" word"] * 200
    finishes = []
    for batch_s in (0.0, 0.02):
        limits = AnswerLimits(batch_s=batch_s)
        async with linked(ScriptedEngine(words), limits=limits) as (_, link):
            items = await answer(link, ask())
            assert text_of(items) == "".join(words)
            finishes.append(items[-1])
    alone, batched = (finish.usage.bytes_received / 200 for finish in finishes)  # type: ignore[union-attr]
    assert batched < 40 < alone


async def test_a_server_that_sends_more_than_allowed_is_not_believed() -> None:
    async with linked(ScriptedEngine([f"{i}" for i in range(50)])) as (server, link):
        await link.connect()
        assert link.line.ready is not None
        import msgspec

        link.line.ready = msgspec.structs.replace(link.line.ready, window=4)
        with pytest.raises(CloudFailed, match="damaged"):
            await answer(link, ask())
        await until(lambda: server.num_in_flight == 0)
