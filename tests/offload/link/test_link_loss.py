from __future__ import annotations

import asyncio
import socket
import time
from pathlib import Path

import pytest

from offload.errors import (
    CloudUnreachable,
    LinkError,
    SettingsError,
)
from offload.link import wire
from offload.link.client import CloudLink
from offload.link.health import CloudSnapshot, HeartbeatTimes
from offload.link.server import LinkServer
from tests.offload.links import (
    DEADLINE_S,
    answer,
    ask,
    linked,
    nowhere,
    serving,
    text_of,
    until,
)
from tests.offload.scripted import ScriptedEngine


async def test_requests_that_fail_together_each_know_their_own_bytes() -> None:
    engine = ScriptedEngine(hold=asyncio.Event())
    async with linked(engine, patience_s=0) as (server, link):
        requests = [ask("x" * length) for length in (10, 1000)]
        tasks = [asyncio.create_task(answer(link, request)) for request in requests]
        await engine.until(lambda: len(engine.running) == 2)
        await server.aclose()
        errors = await asyncio.gather(*tasks, return_exceptions=True)
    sent = [error.bytes_sent for error in errors if isinstance(error, LinkError)]
    assert sent == [len(wire.encode(request, request.id)) for request in requests]


async def test_nothing_left_where_nothing_answers() -> None:
    with nowhere() as endpoint:
        link = CloudLink(endpoint, connect_timeout_s=0.1)
        with pytest.raises(CloudUnreachable) as caught:
            await answer(link, ask())
        assert caught.value.bytes_sent == 0
        await link.aclose()


async def test_those_who_wait_for_a_cloud_that_is_gone_wait_together() -> None:
    with nowhere() as endpoint:
        link = CloudLink(endpoint, connect_timeout_s=1)
        began = time.monotonic()
        asked = (answer(link, ask()) for _ in range(60))
        errors = await asyncio.gather(*asked, return_exceptions=True)
        assert time.monotonic() - began < 30, "one after the other would be a minute"
        assert {type(error) for error in errors} == {CloudUnreachable}
        await link.aclose()


async def test_closing_tells_those_who_wait_for_a_connection() -> None:
    with nowhere() as endpoint:
        link = CloudLink(endpoint, connect_timeout_s=10 * DEADLINE_S)
        tasks = [asyncio.create_task(answer(link, ask())) for _ in range(2)]
        await until(lambda: link.line.opening is not None)
        await link.aclose()
        for task in tasks:
            with pytest.raises(CloudUnreachable, match="closed"):
                await asyncio.wait_for(task, DEADLINE_S)


async def test_nothing_there_is_unreachable_and_names_the_remedy() -> None:
    with nowhere() as endpoint:
        link = CloudLink(endpoint, connect_timeout_s=0.2)
        with pytest.raises(CloudUnreachable, match=r"nothing answers at .*nearfar cloud serve"):
            await answer(link, ask())
        await link.aclose()


async def test_a_listener_that_is_no_cloud_is_told_apart() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        link = CloudLink(f"tcp://127.0.0.1:{listener.getsockname()[1]}", connect_timeout_s=1)
        with pytest.raises(CloudUnreachable, match="does not answer as a nearfar cloud"):
            await link.connect()
        await link.aclose()


async def test_an_endpoint_that_is_none_is_a_setting_to_mend() -> None:
    link = CloudLink("ipc://" + "x" * 300)
    with pytest.raises(SettingsError, match=r"cloud\.url"):
        await link.connect()


async def test_a_silent_cloud_is_known_to_be_dead() -> None:
    engine = ScriptedEngine(hold=asyncio.Event())
    async with linked(engine, patience_s=0) as (server, link):
        task = asyncio.create_task(answer(link, ask()))
        await engine.until(lambda: len(engine.running) == 1)
        assert link.health().alive
        server.pump.on_message = lambda frames: None  # the host hangs, its kernel does not
        with pytest.raises(CloudUnreachable, match="silent"):
            await asyncio.wait_for(task, DEADLINE_S)
        assert not link.health().alive


async def test_a_stopped_cloud_is_known_at_once_and_a_new_one_is_found(tmp_path: Path) -> None:
    engine = ScriptedEngine(hold=asyncio.Event())
    first = LinkServer(engine, endpoint := f"ipc://{tmp_path}/link")
    await first.start()
    link = CloudLink(endpoint, patience_s=0)
    task = asyncio.create_task(answer(link, ask()))
    await engine.until(lambda: len(engine.running) == 1)
    await first.aclose()
    with pytest.raises(CloudUnreachable, match="closed the connection"):
        await asyncio.wait_for(task, DEADLINE_S)
    async with serving(ScriptedEngine(), endpoint=endpoint):
        assert text_of(await answer(link, ask())) == "one two three"
    await link.aclose()


async def test_a_cloud_is_not_healthy_from_a_loss_until_it_answers_again(tmp_path: Path) -> None:
    first = LinkServer(ScriptedEngine(), endpoint := f"ipc://{tmp_path}/link")
    await first.start()
    unhurried = HeartbeatTimes(ping_after_s=DEADLINE_S, dead_after_s=3 * DEADLINE_S)
    link = CloudLink(endpoint, connect_timeout_s=DEADLINE_S, times=unhurried)
    await link.connect()
    rtt_s = link.snapshot().rtt_s
    await first.aclose()
    await until(lambda: not link.snapshot().healthy)
    with pytest.raises(CloudUnreachable):
        await link.connect(0.2)
    assert link.snapshot() == CloudSnapshot(healthy=False, rtt_s=rtt_s), "the last known figures"
    async with serving(ScriptedEngine(), endpoint=endpoint):
        await link.connect()
        assert link.snapshot().healthy
        await link.aclose()
