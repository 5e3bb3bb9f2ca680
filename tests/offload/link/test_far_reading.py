"""Reading of a long prompt far away: told over the link, to those who hear it."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import msgspec
import pytest

from offload.link import message_bodies, wire
from offload.link.message_bodies import Kind
from offload.messages import Side
from offload.reading import heard_by, reading_line
from tests.offload.links import HELLO, answer, ask, linked, raw_device, receive, send, serving
from tests.offload.scripted import ScriptedEngine
from tests.waiting import DEADLINE_S, until

READS = [(0, 3000), (512, 3000), (3000, 3000)]


async def test_a_device_hears_how_far_the_cloud_has_read() -> None:
    heard: list[tuple[int, int, Side]] = []
    async with linked(ScriptedEngine(reads=READS)) as (_, link):
        with heard_by(lambda *told: heard.append(told)):
            await answer(link, ask())
    assert heard == [(*each, "cloud") for each in READS]
    assert reading_line(*heard[1]) == "the far model is reading 512 of 3,000 tokens"


async def test_a_question_that_nobody_waits_for_is_read_in_silence() -> None:
    async with linked(ScriptedEngine(reads=READS)) as (_, link):
        assert len(await answer(link, ask())) == 4


async def test_of_what_is_told_behind_the_first_word_nothing_is_heard() -> None:
    heard: list[object] = []
    engine = ScriptedEngine(hold=asyncio.Event())
    async with linked(engine) as (server, link):
        with heard_by(lambda *told: heard.append(told)):
            async with aclosing(link.generate(ask())) as items:
                await anext(items)
                (task,) = server.handler.answers.answers.values()
                task.out.tell(message_bodies.Reading(1, 2))
                assert engine.hold is not None
                engine.hold.set()
                assert len([item async for item in items]) == 3
    assert heard == []


async def test_a_reader_who_leaves_while_the_cloud_reads_ends_it_there() -> None:
    engine = ScriptedEngine(reads=READS, hold=asyncio.Event(), hold_before=0)
    heard: list[object] = []
    async with linked(engine) as (_, link):
        with heard_by(lambda *told: heard.append(told)):
            job = asyncio.ensure_future(answer(link, ask()))
            await until(lambda: bool(heard))
            job.cancel()
            await asyncio.wait([job])
        await engine.until(lambda: bool(engine.cancelled), DEADLINE_S)


async def test_a_device_that_does_not_say_that_it_hears_is_told_nothing_of_it() -> None:
    engine = ScriptedEngine(reads=READS)
    kinds: list[Kind] = []
    async with serving(engine) as server:
        with raw_device(server.endpoint) as device:
            await send(device, wire.encode(HELLO))
            await receive(device)
            await send(device, wire.encode(request := ask(), request.id))
            while Kind.FINISH not in kinds:
                kinds.append(wire.open_envelope(await receive(device)).kind)
    assert engine.requests and Kind.READING not in kinds


class OlderHello(msgspec.Struct, frozen=True, kw_only=True):
    """HELLO as it was before READING."""

    oldest_version: int
    newest_version: int
    device: str = ""
    session: str = ""


def test_an_older_cloud_reads_a_newer_hello() -> None:
    newer = message_bodies.Hello(oldest_version=3, newest_version=3, hears_reading=True)
    body = wire.open_envelope(wire.encode(newer)).body
    assert msgspec.msgpack.decode(body, type=OlderHello).newest_version == 3


def test_a_negative_number_is_damage() -> None:
    head = wire.encode(message_bodies.Reading(1, 2))[:4]
    with pytest.raises(wire.WireError):
        wire.open_body(wire.open_envelope(head + msgspec.msgpack.encode([-1, 2])))
