"""Peers of version 3, recorded byte by byte: both ways, and what they are not sent."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import msgspec
import pytest
import zmq

from offload.collect import collect
from offload.link import message_bodies, wire
from offload.link.client import CloudLink
from offload.link.message_bodies import Kind
from offload.messages import Message, PromptToken, Request, Sampling
from tests.offload.links import raw_device, receive, send, serving, until
from tests.offload.scripted import ScriptedEngine

RECORDED = {
    name: bytes.fromhex(each)
    for name, each in json.loads(
        Path(__file__).with_name("recorded_v3.json").read_text(encoding="utf-8")
    ).items()
}
TURNS = (
    Message(role="user", content="2 + 2?"),
    Message(role="assistant", content="4"),
    Message(role="user", content="Right?"),
)
SCORED = Request(
    messages=TURNS, scored_turn=1, sampling=Sampling(max_tokens=1, prompt_logprobs=True)
)


async def test_a_device_of_version_3_is_answered_in_its_words() -> None:
    async with serving(ScriptedEngine(["far0 ", "far1"])) as server:
        with raw_device(server.endpoint) as device:
            await send(device, RECORDED["HELLO"])
            ready = await receive(device)
            body = wire.open_body(wire.open_envelope(ready))
            assert isinstance(body, message_bodies.Ready) and body.version == 3
            await send(device, RECORDED["REQUEST"])
            await send(device, RECORDED["CREDIT"])
            kinds, texts = [], ""
            while Kind.FINISH not in kinds:
                answer = await receive(device)
                assert answer[0] == 3, "the head tells the version that a reader needs"
                envelope = wire.open_envelope(answer)
                kinds.append(envelope.kind)
                if isinstance(deltas := wire.open_body(envelope), message_bodies.Deltas):
                    texts += "".join(piece.text for piece in deltas.items)
        assert texts == "far0 far1" and ready[0] == 3


async def test_a_cloud_of_version_3_is_not_sent_what_it_cannot_read() -> None:
    router: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.ROUTER)
    port = router.bind_to_random_port("tcp://127.0.0.1")
    link = CloudLink(f"tcp://127.0.0.1:{port}")
    request = msgspec.structs.replace(SCORED, id="r1")
    task = asyncio.ensure_future(collect(link.generate(request)))
    seen: dict[Kind, bytes] = {}
    while Kind.REQUEST not in seen:
        await until(lambda: bool(router.poll(0)))
        who, frame = router.recv_multipart()
        seen[wire.open_envelope(frame).kind] = frame
        if wire.open_envelope(frame).kind is Kind.HELLO:
            router.send_multipart([who, RECORDED["READY"]])
    asked = wire.open_body(wire.open_envelope(seen[Kind.REQUEST]))
    assert isinstance(asked, Request) and asked.scored_turn is None
    assert asked.sampling.prompt_logprobs and seen[Kind.REQUEST][0] == 3
    router.send_multipart([who, RECORDED["DELTAS"]])
    router.send_multipart([who, RECORDED["FINISH"]])
    assert (await task).text == "far0 far1"
    await link.aclose()
    router.close(linger=0)


def test_two_of_this_version_say_which_turn_is_scored() -> None:
    message = wire.encode(SCORED, SCORED.id)
    assert message[0] == 4 < wire.VERSION
    assert wire.open_body(wire.open_envelope(message)) == SCORED


def test_an_older_device_passes_over_what_a_prompt_token_tells_more() -> None:
    class OlderToken(msgspec.Struct, frozen=True, array_like=True):
        token_id: int
        text: str
        logprob: float | None
        alternatives: tuple[()] = ()

    newer = msgspec.msgpack.encode(PromptToken(5, "x", -0.5, (), 3, 1.5))
    assert msgspec.msgpack.decode(newer, type=OlderToken) == OlderToken(5, "x", -0.5)
    older = msgspec.msgpack.encode(OlderToken(5, "x", -0.5))
    assert msgspec.msgpack.decode(older, type=PromptToken) == PromptToken(5, "x", -0.5)


@pytest.mark.parametrize(("oldest", "newest", "agreed"), [(3, 3, 3), (3, 9, 5), (4, 4, 4)])
async def test_the_highest_common_version_is_spoken(oldest: int, newest: int, agreed: int) -> None:
    hello = message_bodies.Hello(oldest_version=oldest, newest_version=newest)
    async with serving(ScriptedEngine()) as server:
        with raw_device(server.endpoint) as device:
            await send(device, wire.encode(hello))
            body = wire.open_body(wire.open_envelope(await receive(device)))
    assert isinstance(body, message_bodies.Ready) and body.version == agreed
