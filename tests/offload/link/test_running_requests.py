from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from offload.asker import asker
from offload.engine import Engine
from offload.errors import SettingsError
from offload.link import message_bodies
from offload.link.answer_task import Key, Owner
from offload.link.message_bodies import End
from offload.link.quota import Quota, QuotaMeter
from offload.link.running_requests import AnswerBook, AnswerLimits
from offload.messages import Delta, ForwardedRequest, Request
from tests.offload.links import answer, ask, linked
from tests.offload.scripted import ScriptedEngine

OWNER = Owner("key", "session")


class Ear:
    """A device that hears everything."""

    def __init__(self) -> None:
        self.heard: list[message_bodies.AnyBody] = []

    def __call__(self, body: message_bodies.AnyBody) -> bool:
        self.heard.append(body)
        return True


def book(engine: Engine, **limits: float) -> AnswerBook:
    return AnswerBook(engine, AnswerLimits(**limits), QuotaMeter(Quota()))  # type: ignore[arg-type]


@pytest.fixture
async def engine() -> AsyncIterator[ScriptedEngine]:
    yield ScriptedEngine()


async def run(answers: AnswerBook, request_id: str) -> Key:
    key = Key(OWNER, request_id)
    answers.begin(key, Request(id=request_id, prompt="x"), Ear())
    while answers.num_running:
        await asyncio.sleep(0)
    return key


async def test_an_answer_that_ended_is_kept_for_a_while(engine: ScriptedEngine) -> None:
    answers = book(engine, resume_s=60)
    key = await run(answers, "a")
    answers.sweep()
    ear = Ear()
    assert answers.resume(key, ear, 1) is None
    await asyncio.sleep(0)
    assert isinstance(ear.heard[0], message_bodies.Deltas) and ear.heard[0].first == 1
    assert isinstance(ear.heard[-1], End)
    await answers.aclose()


async def test_after_the_while_it_is_gone_and_does_not_run_again(engine: ScriptedEngine) -> None:
    answers = book(engine, resume_s=0)
    key = await run(answers, "a")
    answers.sweep()
    failure = answers.resume(key, Ear(), 0)
    assert failure is not None and "no longer holds" in failure.message
    assert answers.knows(key)
    await answers.aclose()


async def test_only_so_many_are_kept_the_oldest_go_first(engine: ScriptedEngine) -> None:
    answers = book(engine, resume_s=60, max_kept_answers=2)
    keys = [await run(answers, name) for name in "abcd"]
    answers.sweep()
    assert [answers.resume(key, Ear(), 0) is None for key in keys] == [False, False, True, True]
    await answers.aclose()


async def test_only_so_many_ids_are_remembered(engine: ScriptedEngine) -> None:
    answers = book(engine, resume_s=0, max_remembered_ids=2)
    keys = [await run(answers, name) for name in "abcd"]
    answers.sweep()
    assert [answers.knows(key) for key in keys] == [False, False, True, True]
    await answers.aclose()


async def test_an_answer_still_being_read_is_not_forgotten(engine: ScriptedEngine) -> None:
    answers = book(engine, resume_s=0)
    full = False

    def narrow(body: message_bodies.AnyBody) -> bool:
        return full

    key = Key(OWNER, "a")
    answers.begin(key, Request(id="a", prompt="x"), narrow)
    while answers.num_running:
        await asyncio.sleep(0)
    answers.sweep()
    assert answers.resume(key, Ear(), 0) is None
    await answers.aclose()


async def test_closing_waits_until_the_engine_has_let_go() -> None:
    engine = ScriptedEngine(hold=asyncio.Event())
    answers = book(engine)
    answers.begin(Key(OWNER, "a"), Request(id="a", prompt="x"), Ear())
    await engine.until(lambda: engine.running == {"a"})
    await answers.aclose()
    assert engine.cancelled == ["a"] and answers.num_running == 0


async def test_a_server_that_drains_ends_at_once_what_nobody_hears() -> None:
    engine = ScriptedEngine(hold=asyncio.Event())
    answers = book(engine)
    for name in ("read", "left"):
        answers.begin(Key(OWNER, name), Request(id=name, prompt="x"), Ear())
    await engine.until(lambda: engine.running == {"read", "left"})
    answers.end_unheard()
    assert not answers.all_heard and answers.num_running == 2
    answers.leave(Key(OWNER, "left"))
    answers.end_unheard()
    await engine.until(lambda: engine.cancelled == ["left"])
    assert engine.running == {"read"}
    answers.leave(Key(OWNER, "read"))
    answers.end_unheard()
    await engine.until(lambda: answers.all_heard)
    await answers.aclose()


@pytest.mark.parametrize("name", ["max_streams", "window", "stall_s"])
def test_limits_of_nothing_are_refused(name: str) -> None:
    with pytest.raises(SettingsError, match=name):
        AnswerLimits(**{name: 0})


async def test_a_device_cannot_say_that_another_asks() -> None:
    """Else it would share what an engine keeps for that one."""
    engine = ScriptedEngine(script=lambda _: [asker() or "nobody"])
    forwarded = ForwardedRequest(**msgspec.structs.asdict(ask()) | {"asker": "http:alice"})
    async with linked(engine) as (_, link):
        items = await answer(link, forwarded)
    assert isinstance(items[0], Delta) and len(items[0].text) == 40, "the device's own key"
