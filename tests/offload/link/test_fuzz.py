from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator

import zmq
from hypothesis import given, settings
from hypothesis import strategies as st

from offload.link import message_bodies, wire
from offload.link.client import CloudLink
from offload.link.running_requests import AnswerLimits
from offload.link.server import LinkServer
from offload.link.wire import pack_delta
from offload.messages import Finish, Message, Request, Sampling
from tests.offload.links import DEADLINE_S, HELLO, answer, ask, serving, text_of
from tests.offload.scripted import ScriptedEngine, delta

SEEDS = [
    wire.encode(body, "id")
    for body in (
        HELLO,
        Request(id="id", prompt="hello"),
        Request(
            id="id",
            messages=(Message(role="user", content="hi"),),
            sampling=Sampling(stop=("a",), json_schema={"a": [1, {"b": None}]}),
            deadline_s=0.01,
        ),
        message_bodies.Cancel(),
        message_bodies.Credit(9),
        message_bodies.Resume(0, 5),
        message_bodies.Join("x" * 40),
        message_bodies.Ping(1.0),
        message_bodies.Deltas(0, (pack_delta(delta("x")),)),
        message_bodies.End(1, Finish(reason="stop")),
    )
]


def mutations(num: int, seed: int) -> Iterator[list[bytes]]:
    """Yield valid messages with some of their bytes and frames changed."""
    draw = random.Random(seed)
    for _ in range(num):
        frames = [bytearray(draw.choice(SEEDS))]
        for _ in range(draw.randrange(4)):
            frame = draw.choice(frames)
            at = draw.randrange(len(frame) + 1)
            frame[at : at + draw.randrange(3)] = draw.randbytes(draw.randrange(4))
        if draw.random() < 0.1:
            frames = frames * draw.randrange(4)
        yield [bytes(frame) for frame in frames]


def feed(server: LinkServer, identity: bytes, frames: list[bytes]) -> None:
    server.receive([zmq.Frame(frame) for frame in (identity, *frames)])


async def test_a_hundred_thousand_mutations_harm_nobody() -> None:
    hold = asyncio.Event()
    engine = ScriptedEngine(script=lambda r: ["a"] if r.id != "victim" else ["one", " two"])
    engine.hold = hold
    limits = AnswerLimits(resume_s=0.1, max_remembered_ids=50, max_kept_answers=50)
    async with serving(engine, limits=limits) as server:
        link = CloudLink(server.endpoint)
        task = asyncio.create_task(answer(link, ask(id="victim")))
        await engine.until(lambda: "victim" in engine.running)
        for number, frames in enumerate(mutations(100_000, seed=1)):
            feed(server, b"\x00fuzz%d" % (number % 7), frames)
            if number % 500 == 0:
                await asyncio.sleep(0)
        assert len(server.handler.peers) <= 8
        assert server.num_bad_messages > 10_000
        hold.set()
        assert text_of(await asyncio.wait_for(task, DEADLINE_S)) == "one two"
        await link.aclose()


@given(st.lists(st.lists(st.binary(max_size=20), max_size=6), max_size=20))
@settings(max_examples=50)
def test_arbitrary_messages_raise_nothing(messages: list[list[bytes]]) -> None:
    async def run() -> None:
        async with serving(ScriptedEngine()) as server:
            for frames in messages:
                feed(server, b"\x00fuzz", frames)
            link = CloudLink(server.endpoint)
            assert text_of(await answer(link, ask())) == "one two three"
            await link.aclose()

    asyncio.run(run())


async def test_what_a_cloud_says_amiss_fails_the_answer_and_not_the_device() -> None:
    async with serving(ScriptedEngine()) as server:
        link = CloudLink(server.endpoint, patience_s=0)
        for frames in mutations(2_000, seed=2):
            await link.connect()
            assert link.line.connection is not None
            link.line.connection.receive([zmq.Frame(frame) for frame in frames])
        assert text_of(await answer(link, ask())) == "one two three"
        await link.aclose()
