"""Several answers read in one place: in order, with an end for each, and nothing left running."""

from __future__ import annotations

import asyncio

import pytest

from offload.messages import Delta, Finish, Request
from serve.answer_streams import AnswerStreams
from serve.http_errors import EngineBroke, TooLate
from serve.metrics import Metrics
from tests.offload.scripted import ScriptedEngine, delta


def answers(engine: ScriptedEngine, num: int = 1, timeout_s: float = 5.0) -> AnswerStreams:
    requests = [Request(prompt=str(number)) for number in range(num)]
    return AnswerStreams(engine.generate, requests, metrics=Metrics(), timeout_s=timeout_s)


async def test_each_answer_keeps_its_order_and_ends_once() -> None:
    engine = ScriptedEngine(script=lambda request: [request.last_text()] * 100)
    told: dict[int, list[str]] = {0: [], 1: [], 2: []}
    async with answers(engine, 3) as reading:
        while (entry := await reading.next()) is not None:
            index, item = entry
            told[index].append("END" if isinstance(item, Finish) else item.text)
    assert told == {number: [str(number)] * 100 + ["END"] for number in range(3)}


async def test_answers_are_written_side_by_side() -> None:
    hold = asyncio.Event()
    engine = ScriptedEngine(hold=hold, hold_before=0)
    async with answers(engine, 3):
        await engine.until(lambda: len(engine.running) == 3)
        hold.set()


async def test_one_failure_ends_them_all() -> None:
    engine = ScriptedEngine(
        script=lambda request: [request.last_text()] * 3, error=ValueError("x"), error_before=2
    )
    with pytest.raises(ValueError, match="x"):
        async with answers(engine, 2) as reading:
            while await reading.next() is not None:
                pass
    assert not engine.running


async def test_an_engine_is_only_a_little_ahead_of_its_reader() -> None:
    engine = ScriptedEngine(["x"] * 1000)
    async with answers(engine) as reading:
        await reading.next()
        for _ in range(2000):
            await asyncio.sleep(0)
        assert max(engine.num_said.values()) < 100


async def test_a_hanging_engine_is_too_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.answer_streams._GRACE_S", 0.0)
    engine = ScriptedEngine(hold=asyncio.Event(), hold_before=0)
    with pytest.raises(TooLate, match=r"raise serve\.request_timeout_s"):
        async with answers(engine, timeout_s=0.02) as reading:
            await reading.next()
    assert not engine.running


async def test_an_answer_without_an_end_is_no_answer() -> None:
    with pytest.raises(EngineBroke):
        async with answers(ScriptedEngine(finish=None)) as reading:
            while await reading.next() is not None:
                pass


async def test_a_reader_who_leaves_as_an_item_comes_has_left() -> None:
    engine = ScriptedEngine(hold=asyncio.Event(), hold_before=0)
    item: Delta = delta("x")
    async with answers(engine) as reading:
        waiting = asyncio.ensure_future(reading.next())
        await engine.until(lambda: bool(engine.running))
        await asyncio.sleep(0)
        reading.queue.put_nowait((0, item))
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
