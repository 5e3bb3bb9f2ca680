from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from backbone.errors import NearfarError
from offload.engine import Engine
from offload.errors import (
    CloudBusy,
    CloudFailed,
    CloudStopped,
    CloudUnreachable,
    ContextLengthError,
    EngineStopped,
    LinkError,
    Overloaded,
    RequestError,
    SettingsError,
    Unsupported,
)
from offload.link import wire
from offload.link.client import CloudLink
from offload.link.health import CloudSnapshot, HeartbeatTimes
from offload.link.running_requests import AnswerLimits
from offload.link.server import LinkServer
from offload.messages import Budget, Finish, Privacy, Usage
from tests.offload.links import (
    DEADLINE_S,
    answer,
    ask,
    linked,
    serving,
    text_of,
    until,
)
from tests.offload.scripted import CARD, ScriptedEngine, delta


async def test_an_answer_arrives_whole_and_in_order() -> None:
    engine = ScriptedEngine()
    async with linked(engine) as (_, link):
        items = await answer(link, request := ask(deadline_s=DEADLINE_S))
    assert items[:-1] == [delta("one", 0), delta(" two", 1), delta(" three", 2)]
    assert isinstance(items[-1], Finish) and items[-1].reason == "stop"
    assert engine.requests == [request]


async def test_the_link_is_an_engine_and_carries_the_card() -> None:
    async with linked(ScriptedEngine()) as (_, link):
        assert isinstance(link, Engine)
        with pytest.raises(CloudUnreachable, match="connect"):
            link.card()
        assert await link.connect() == CARD == link.card()


async def test_works_over_ipc_without_keys(tmp_path: Path) -> None:
    async with serving(ScriptedEngine(), endpoint=f"ipc://{tmp_path}/link") as server:
        link = CloudLink(server.endpoint)
        assert text_of(await answer(link, ask())) == "one two three"
        await link.aclose()


async def test_many_requests_at_once_do_not_mix() -> None:
    engine = ScriptedEngine(script=lambda request: [f"{request.prompt}{i} " for i in range(20)])
    async with linked(engine) as (_, link):
        answers = await asyncio.gather(*(answer(link, ask(f"q{n}.")) for n in range(50)))
    for n, items in enumerate(answers):
        assert text_of(items) == "".join(f"q{n}.{i} " for i in range(20))


async def test_bytes_are_those_of_the_messages() -> None:
    async with linked(ScriptedEngine()) as (_, link):
        items = await answer(link, request := ask())
    finish = items[-1]
    assert isinstance(finish, Finish)
    assert finish.usage.bytes_sent == len(wire.encode(request, request.id))
    assert finish.usage.bytes_received > sum(len(item.text) for item in items[:-1])  # type: ignore[union-attr]
    assert finish.usage.completion_tokens == 3


async def test_closing_the_iterator_frees_the_engine() -> None:
    engine = ScriptedEngine(hold=asyncio.Event())
    async with linked(engine) as (server, link):
        async with contextlib.aclosing(link.generate(request := ask())) as items:  # type: ignore[type-var]
            assert (await anext(items)).text == "one"
            assert engine.running == {request.id}
        await engine.until(lambda: engine.cancelled == [request.id])
        assert link.health().in_flight == 0
        await until(lambda: server.num_in_flight == 0)


async def test_cancelling_the_reading_task_frees_the_engine() -> None:
    engine = ScriptedEngine(hold=asyncio.Event())
    async with linked(engine) as (_, link):
        task = asyncio.create_task(answer(link, request := ask()))
        await engine.until(lambda: engine.running == {request.id})
        task.cancel()
        await engine.until(lambda: engine.cancelled == [request.id])
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_the_cloud_keeps_the_deadline() -> None:
    engine = ScriptedEngine(hold=asyncio.Event())
    async with linked(engine) as (_, link):
        await link.connect()
        items = await answer(link, request := ask(deadline_s=0.5))
        assert text_of(items) == "one"
        assert isinstance(items[-1], Finish) and items[-1].reason == "deadline"
        assert items[-1].usage.completion_tokens == 1
        await engine.until(lambda: engine.cancelled == [request.id])


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (RequestError("top_k is silly"), RequestError, "top_k is silly"),
        (ContextLengthError(9000, 4096), ContextLengthError, "prompt has 9000;"),
        (Unsupported("no schemas here"), Unsupported, "no schemas"),
        (Overloaded("the queue is full", 7.5), CloudBusy, "the queue is full"),
        (EngineStopped("the engine is closed"), CloudStopped, "is closed"),
        (CloudFailed("the GPU is gone; call someone"), CloudFailed, "call someone"),
        (ZeroDivisionError("secret prompt"), CloudFailed, "ZeroDivisionError"),
    ],
)
async def test_an_engines_error_reaches_the_device_and_the_next_request_is_served(
    error: Exception, kind: type[NearfarError], says: str
) -> None:
    engine = ScriptedEngine(script=lambda r: ["a", "b"], error=error, error_before=1)
    async with linked(engine) as (_, link):
        with pytest.raises(kind, match=says) as caught:
            await answer(link, ask())
        assert type(caught.value) is kind
        assert "secret" not in str(caught.value)
        engine.error = None
        assert text_of(await answer(link, ask())) == "ab"


async def test_a_busy_cloud_says_when_to_ask_again() -> None:
    engine = ScriptedEngine(error=Overloaded("the queue is full", retry_after_s=7.5))
    async with linked(engine) as (_, link):
        with pytest.raises(Overloaded) as caught:
            await answer(link, ask())
        assert caught.value.retry_after_s == 7.5
        assert isinstance(caught.value, LinkError), "so that the device answers itself"


@pytest.mark.parametrize("mid_answer", [False, True])
async def test_bytes_that_left_are_known_where_the_cloud_fails(mid_answer: bool) -> None:
    engine = ScriptedEngine(error=CloudFailed("gone"), error_before=int(mid_answer))
    async with linked(engine) as (_, link):
        with pytest.raises(LinkError) as caught:
            await answer(link, request := ask())
    assert caught.value.bytes_sent == len(wire.encode(request, request.id))


async def test_an_engine_that_ends_without_finish_is_an_error() -> None:
    async with linked(ScriptedEngine(finish=None)) as (_, link):
        with pytest.raises(CloudFailed, match="mid-answer"):
            await answer(link, ask())


async def test_closing_the_link_frees_the_engine_and_fails_what_is_read() -> None:
    engine = ScriptedEngine(hold=asyncio.Event())
    async with linked(engine) as (_, link):
        items = link.generate(request := ask())
        await anext(items)  # type: ignore[arg-type]
        await link.aclose()
        await engine.until(lambda: engine.cancelled == [request.id])
        with pytest.raises(CloudUnreachable, match="closed"):
            await anext(items)  # type: ignore[arg-type]


async def test_an_idle_link_stays_alive_and_measures_the_round_trip() -> None:
    async with linked(ScriptedEngine()) as (server, link):
        link.line.times = HeartbeatTimes(ping_after_s=0.02, dead_after_s=DEADLINE_S)
        await link.connect()
        await until(lambda: link.health().rtt_s is not None)
        health = link.health()
        assert health.alive and (health.rtt_s or 0) > 0
        assert abs(health.clock_offset_s or 0) < (health.rtt_s or 0) + 0.1
        assert len(server.handler.peers) == 1


async def test_the_standing_tells_who_waits_and_for_how_long() -> None:
    hold = asyncio.Event()
    finish = Finish(reason="stop", usage=Usage(queue_s=0.25))
    engine = ScriptedEngine(hold=hold, hold_before=0, finish=finish)
    async with linked(engine) as (_, link):
        link.line.times = HeartbeatTimes(ping_after_s=0.02, dead_after_s=DEADLINE_S)
        assert link.snapshot() == CloudSnapshot(healthy=True), "nothing speaks against it yet"
        tasks = [asyncio.create_task(answer(link, ask())) for _ in range(2)]
        await until(lambda: link.snapshot().num_waiting == 2)
        assert link.snapshot().queue_s is None
        hold.set()
        await asyncio.gather(*tasks)
        await until(lambda: link.snapshot().queue_s == 0.25)
        snapshot = link.snapshot()
        assert snapshot.num_waiting == 0
        assert snapshot.first_piece_s is not None and snapshot.first_piece_s > 0
        assert snapshot.rtt_s is not None and snapshot.rtt_s > 0


async def test_a_taken_port_is_a_setting_to_mend() -> None:
    async with serving(ScriptedEngine()) as server:
        with pytest.raises(SettingsError, match="choose another"):
            await LinkServer(ScriptedEngine(), server.endpoint).start()


async def test_local_only_and_costly_requests_do_not_leave() -> None:
    engine = ScriptedEngine()
    async with linked(engine) as (_, link):
        with pytest.raises(RequestError, match="local_only"):
            await answer(link, ask(privacy=Privacy.LOCAL_ONLY))
        with pytest.raises(RequestError, match="10 are allowed"):
            await answer(link, ask(budget=Budget(max_bytes_sent=10)))
        assert link.health().bytes_sent == 0
    assert engine.requests == []


async def test_too_many_requests_are_refused_and_the_running_ones_go_on() -> None:
    hold = asyncio.Event()
    engine = ScriptedEngine(hold=hold)
    limits = AnswerLimits(max_streams_per_device=2)
    async with serving(engine, limits=limits) as server:
        link = CloudLink(server.endpoint)
        tasks = [asyncio.create_task(answer(link, ask())) for _ in range(2)]
        await engine.until(lambda: len(engine.running) == 2)
        with pytest.raises(CloudBusy, match="2 requests in flight"):
            await answer(link, ask())
        hold.set()
        assert [text_of(items) for items in await asyncio.gather(*tasks)] == ["one two three"] * 2
        await link.aclose()


async def test_a_long_lived_connection_remembers_only_what_the_cloud_keeps() -> None:
    limits = AnswerLimits(resume_s=0, max_remembered_ids=5)
    async with linked(ScriptedEngine(), limits=limits) as (server, link):
        for _ in range(20):
            await answer(link, ask())
        (peer,) = server.handler.peers.all()
        await until(lambda: not peer.asking and not server.handler.peers.listeners)
