from __future__ import annotations

import asyncio

import pytest

from offload.link import message_bodies, wire
from offload.link.message_bodies import Deltas, End, PackedDelta
from offload.link.send_buffer import SendBuffer
from offload.link.wire import pack_delta
from offload.messages import Finish
from tests.offload.links import DEADLINE_S, until
from tests.offload.scripted import delta


class Line:
    """A connection that has room or not, and remembers what was said."""

    def __init__(self) -> None:
        self.said: list[message_bodies.AnyBody] = []
        self.has_room = True

    def __call__(self, body: message_bodies.AnyBody) -> bool:
        if self.has_room:
            self.said.append(body)
        return self.has_room

    def positions(self) -> list[int]:
        return [
            body.first + step
            for body in self.said
            if isinstance(body, Deltas)
            for step in range(len(body.items))
        ]


def piece(index: int) -> PackedDelta:
    return pack_delta(delta(f"{index} ", index))


def push(out: SendBuffer, *indices: int) -> None:
    for index in indices:
        out.push(piece(index))


async def ends(out: SendBuffer, line: Line) -> None:
    await until(lambda: isinstance(line.said[-1] if line.said else None, End))


async def test_without_batching_every_piece_leaves_at_once() -> None:
    out, line = SendBuffer(window=8, batch_s=0), Line()
    out.attach(line, 0)
    push(out, 0, 1, 2)
    assert line.said == [Deltas(i, (piece(i),)) for i in range(3)]


async def test_the_first_piece_leaves_at_once_and_the_next_together_within_the_bound() -> None:
    out, line = SendBuffer(window=8, batch_s=0.02), Line()
    out.attach(line, 0)
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    push(out, 0, 1, 2, 3)
    assert line.positions() == [0]
    await until(lambda: len(line.said) == 2)
    assert loop.time() - began_s >= 0.019
    assert line.said[1] == Deltas(1, (piece(1), piece(2), piece(3)))


async def test_the_end_does_not_wait_for_a_batch() -> None:
    out, line = SendBuffer(window=8, batch_s=60), Line()
    out.attach(line, 0)
    push(out, 0, 1, 2)
    out.finish(Finish(reason="stop"))
    assert line.positions() == [0, 1, 2]
    assert line.said[-1] == End(len(line.positions()), Finish(reason="stop"))


async def test_a_large_batch_is_cut() -> None:
    out, line = SendBuffer(window=64, batch_s=60), Line()
    for index in range(20):
        out.push(pack_delta(delta("x" * 4000, index)))
    out.attach(line, 0)
    assert line.positions() == list(range(20))
    assert all(len(wire.encode(body)) < 64 * 1024 for body in line.said)


async def test_there_is_no_room_beyond_the_window_until_the_reader_takes() -> None:
    out, line = SendBuffer(window=3, batch_s=0), Line()
    out.attach(line, 0)
    push(out, 0, 1, 2)
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(out.room(), 0.01)
    out.allow(4)
    await asyncio.wait_for(out.room(), DEADLINE_S)
    assert line.positions() == [0, 1, 2]


async def test_a_claim_to_have_read_what_was_never_sent_buys_nothing() -> None:
    out, line = SendBuffer(window=3, batch_s=0), Line()
    out.attach(line, 0)
    out.allow(10**15)
    push(out, 0, 1, 2)
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(out.room(), 0.01)


async def test_a_full_connection_is_tried_again() -> None:
    out, line = SendBuffer(window=8, batch_s=0), Line()
    line.has_room = False
    out.attach(line, 0)
    push(out, 0, 1)
    out.finish(Finish(reason="stop"))
    assert line.said == []
    line.has_room = True
    await ends(out, line)
    assert line.positions() == [0, 1]


async def test_after_a_loss_the_answer_goes_on_from_where_it_was_heard() -> None:
    out, first, second = SendBuffer(window=8, batch_s=0), Line(), Line()
    out.attach(first, 0)
    push(out, 0, 1)
    out.detach()
    push(out, 2, 3)
    out.finish(Finish(reason="stop"))
    assert out.attach(second, 1)
    assert first.positions() == [0, 1]
    assert second.positions() == [1, 2, 3]
    assert second.said[-1] == End(4, Finish(reason="stop"))


async def test_the_end_is_said_again_where_it_may_have_been_lost() -> None:
    out, first, second = SendBuffer(window=8, batch_s=0), Line(), Line()
    out.attach(first, 0)
    out.finish(Finish(reason="stop"))
    out.detach()
    assert out.attach(second, 0)
    assert second.said == [End(0, Finish(reason="stop"))]


async def test_what_was_taken_is_gone_and_what_was_not_yet_said_cannot_be_resumed() -> None:
    out, line = SendBuffer(window=4, batch_s=0), Line()
    out.attach(line, 0)
    push(out, 0, 1, 2, 3)
    out.allow(6)  # the reader has taken two
    out.detach()
    assert not out.attach(Line(), 1)
    assert not out.attach(Line(), 5)
    assert out.attach(again := Line(), 2)
    assert again.positions() == [2, 3]


async def test_only_the_first_end_counts_and_a_deadline_drops_what_was_not_sent() -> None:
    out, line = SendBuffer(window=8, batch_s=60), Line()
    out.attach(line, 0)
    push(out, 0, 1, 2)
    out.finish(Finish(reason="deadline"), drop_unsent=True)
    out.finish(Finish(reason="stop"))
    assert line.positions() == [0]
    assert line.said[1:] == [End(1, Finish(reason="deadline"))]


async def test_it_is_alone_while_nobody_listens_and_after_the_end_was_heard() -> None:
    out, line = SendBuffer(window=8, batch_s=0), Line()
    out.attach(line, 0)
    assert out.alone_since_s is None
    out.detach()
    assert out.alone_since_s is not None
    out.attach(line, 0)
    assert out.alone_since_s is None
    out.finish(Finish(reason="stop"))
    assert out.alone_since_s is not None
