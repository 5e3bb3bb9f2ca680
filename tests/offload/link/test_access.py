from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from offload.errors import CloudBusy, KeyRefused
from offload.link import message_bodies, wire
from offload.link.access import Access
from offload.link.client import CloudLink
from offload.link.health import HeartbeatTimes
from offload.link.keys import DeviceList, KeyPair
from offload.link.message_handler import MessageHandler
from offload.link.quota import Quota, QuotaMeter
from offload.link.running_requests import AnswerLimits
from tests.offload.links import (
    DEADLINE_S,
    HELLO,
    answer,
    ask,
    linked,
    raw_device,
    send,
    serving,
    text_of,
    until,
)
from tests.offload.scripted import ScriptedEngine


async def test_a_revoked_device_is_cut_off_in_mid_answer_and_another_is_not() -> None:
    engine = ScriptedEngine(hold=asyncio.Event())
    server_keys, devices = KeyPair.new(), DeviceList()
    pairs = {name: KeyPair.new() for name in ("good", "bad")}
    for name, pair in pairs.items():
        devices.add(name, pair.public)
    async with serving(engine, keys=server_keys, devices=devices) as server:
        links = {
            name: CloudLink(server.endpoint, server_key=server_keys.public, device_keys=pair)
            for name, pair in pairs.items()
        }
        requests = {name: ask() for name in links}
        tasks = {
            name: asyncio.create_task(answer(link, requests[name])) for name, link in links.items()
        }
        await engine.until(lambda: len(engine.running) == 2)
        devices.remove("bad")
        with pytest.raises(KeyRefused, match="no longer lets this device in"):
            await asyncio.wait_for(tasks["bad"], DEADLINE_S)
        await engine.until(lambda: engine.cancelled == [requests["bad"].id])
        with pytest.raises(KeyRefused):
            await answer(links["bad"], ask())
        assert engine.hold is not None
        engine.hold.set()
        assert text_of(await tasks["good"]) == "one two three"
        for link in links.values():
            await link.aclose()


async def test_a_device_that_asks_too_much_is_told_when_to_come_again() -> None:
    engine = ScriptedEngine()
    meter = QuotaMeter(Quota(requests_per_s=0.01, burst_s=200))
    async with serving(engine, meter=meter) as server:
        link = CloudLink(server.endpoint)
        for _ in range(2):
            assert text_of(await answer(link, ask())) == "one two three"
        with pytest.raises(CloudBusy, match="ask again in") as caught:
            await answer(link, ask())
        assert 0 < caught.value.retry_after_s <= 100
        await link.aclose()
    assert len(engine.requests) == 2


async def test_tokens_are_counted_as_they_are_written() -> None:
    meter = QuotaMeter(Quota(tokens_per_day=3))
    async with serving(ScriptedEngine(), meter=meter) as server:
        link = CloudLink(server.endpoint)
        assert text_of(await answer(link, ask())) == "one two three"
        with pytest.raises(CloudBusy, match="3 tokens of the day"):
            await answer(link, ask())
        await link.aclose()


async def test_a_flood_from_one_device_does_not_stop_another() -> None:
    words = [f"{i} " for i in range(50)]
    async with serving(ScriptedEngine(words, pause_s=0.001)) as server:
        unhurried = HeartbeatTimes(ping_after_s=1, dead_after_s=DEADLINE_S)
        link = CloudLink(server.endpoint, times=unhurried)
        await link.connect()
        with raw_device(server.endpoint) as flooder:
            await send(flooder, wire.encode(HELLO))
            task = asyncio.create_task(answer(link, ask()))
            garbage = bytes((wire.VERSION, 3, 0, 2)) + b"id" + b"\xc1" * 200
            for _ in range(200):
                for _ in range(50):
                    await send(flooder, garbage)  # and it never reads what comes back
                await asyncio.sleep(0)
            assert text_of(await asyncio.wait_for(task, DEADLINE_S)) == "".join(words)
        assert link.health().alive
        await link.aclose()


def test_a_damaged_list_lets_no_one_in_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    key = KeyPair.new().public
    door = Access(devices=DeviceList(tmp_path / "devices.json"))
    (tmp_path / "devices.json").write_bytes(b"[{]")
    assert not door.lets_in(key)
    assert "devices.json is damaged" in caplog.text


async def test_draining_finishes_what_runs_and_takes_nothing_new() -> None:
    hold = asyncio.Event()
    engine = ScriptedEngine(hold=hold)
    async with linked(engine, patience_s=0) as (server, link):
        task = asyncio.create_task(answer(link, ask()))
        await engine.until(lambda: len(engine.running) == 1)
        drain = asyncio.create_task(server.drain(DEADLINE_S))
        await asyncio.sleep(0)
        with pytest.raises(CloudBusy, match="closing"):
            await answer(link, ask())
        hold.set()
        assert text_of(await asyncio.wait_for(task, DEADLINE_S)) == "one two three"
        await asyncio.wait_for(drain, DEADLINE_S)
        await until(lambda: not link.health().alive)


async def test_a_drain_does_not_wait_for_ever() -> None:
    engine = ScriptedEngine(hold=asyncio.Event())
    async with linked(engine, patience_s=0) as (server, link):
        task = asyncio.create_task(answer(link, request := ask()))
        await engine.until(lambda: len(engine.running) == 1)
        await asyncio.wait_for(server.drain(0.05), DEADLINE_S)
        assert engine.cancelled == [request.id]
        task.cancel()


async def test_a_device_that_slept_shakes_hands_again() -> None:
    async with linked(ScriptedEngine()) as (server, link):
        await link.connect()
        server.handler.forget(server.handler.peers.all()[0])
        assert text_of(await answer(link, ask())) == "one two three"


async def test_a_device_that_takes_anothers_identity_is_nobody() -> None:
    engine, devices = ScriptedEngine(hold=asyncio.Event()), DeviceList()
    owner, thief = KeyPair.new().public, KeyPair.new().public
    devices.add("owner", owner)
    devices.add("thief", thief)
    said: list[list[bytes]] = []

    def send(frames: list[bytes]) -> bool:
        said.append(frames)
        return True

    exchange = MessageHandler(
        engine, Access(devices=devices), AnswerLimits(), HeartbeatTimes(), send
    )
    hello = wire.encode(HELLO)
    exchange.take(b"one", owner, hello)
    exchange.take(b"one", owner, wire.encode(ask(id="mine"), "mine"))
    await engine.until(lambda: engine.running == {"mine"})
    for body in (message_bodies.Cancel(), message_bodies.Resume(0, 9)):
        exchange.take(b"one", thief, wire.encode(body, "mine"))
        refused = wire.open_body(wire.open_envelope(said[-1][1]))
        assert isinstance(refused, message_bodies.HelloRefused) and refused.code == "hello"
    assert engine.running == {"mine"}
    await exchange.answers.aclose()
