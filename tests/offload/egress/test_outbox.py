"""Questions wait for the cloud only where they may, and each is asked again once."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from offload.egress.outbox import Outbox, UpgradedAnswer
from offload.errors import CloudFailed, CloudUnreachable, EgressBlocked, RequestError
from offload.messages import Delta, Finish, Privacy, Request, Route
from tests.offload.scripted import ScriptedEngine


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    return Outbox(tmp_path / "outbox" / "waiting.json")


def ended(reason: str = "offline", confidence: float | None = 0.2, **options: object) -> Finish:
    side = options.pop("side", "edge")
    route = Route(served_by=side, reason=reason, confidence=confidence)  # type: ignore[arg-type]
    return Finish(reason=options.pop("end", "stop"), route=route)  # type: ignore[arg-type]


def ask(text: str = "why?", **options: object) -> Request:
    return Request(prompt=text, **options)  # type: ignore[arg-type]


async def run(outbox: Outbox, cloud: ScriptedEngine) -> list[UpgradedAnswer]:
    return [better async for better in outbox.run(cloud)]


async def test_what_was_answered_unsurely_offline_is_asked_again_once(outbox: Outbox) -> None:
    name = outbox.put(ask(deadline_s=0.5), "near", ended())
    assert name is not None and [each.id for each in outbox.pending()] == [name]
    cloud = ScriptedEngine(["far ", "better"])
    (better,) = await run(outbox, cloud)
    assert (better.waiting.answer, better.answer) == ("near", "far better")
    assert cloud.requests[0].prompt == "why?" and cloud.requests[0].deadline_s is None
    assert cloud.requests[0].id != better.waiting.request.id
    assert outbox.pending() == [] and await run(outbox, cloud) == []


@pytest.mark.parametrize(
    ("privacy", "finish"),
    [
        (Privacy.LOCAL_ONLY, ended()),
        (Privacy.ASK, ended()),
        (Privacy.CLOUD_OK, ended(confidence=0.9)),
        (Privacy.CLOUD_OK, ended("confident")),
        (Privacy.CLOUD_OK, ended("withheld")),
        (Privacy.CLOUD_OK, ended("unsure", side="cloud")),
        (Privacy.CLOUD_OK, ended(end="error")),
        (Privacy.CLOUD_OK, Finish(reason="stop")),
    ],
)
def test_nothing_else_gets_in(outbox: Outbox, privacy: Privacy, finish: Finish) -> None:
    assert outbox.put(ask(privacy=privacy), "near", finish) is None
    assert outbox.pending() == []


def test_only_its_owner_may_read_what_waits(outbox: Outbox, tmp_path: Path) -> None:
    outbox.put(ask("a question"), "near", ended())
    for file in (tmp_path / "outbox").iterdir():
        assert file.stat().st_mode & 0o077 == 0, file


async def test_a_question_is_gone_from_the_disk_once_it_was_asked(
    outbox: Outbox, tmp_path: Path
) -> None:
    outbox.put(ask("a question"), "near", ended())
    await run(outbox, ScriptedEngine())
    for file in (tmp_path / "outbox").iterdir():
        assert b"a question" not in file.read_bytes()


def test_the_newest_stay_where_there_is_no_room_for_all(tmp_path: Path) -> None:
    small = Outbox(tmp_path / "a" / "waiting.json", max_entries=3)
    for number in range(5):
        small.put(ask(f"question {number}"), "near", ended())
    assert [each.request.prompt for each in small.pending()] == [f"question {n}" for n in (2, 3, 4)]
    tight = Outbox(tmp_path / "b" / "waiting.json", max_bytes=600)
    assert tight.put(ask("x" * 1000), "near", ended()) is None
    assert tight.put(ask("short"), "near", ended()) is not None


async def test_questions_wait_on_while_the_cloud_is_away_but_not_for_ever(outbox: Outbox) -> None:
    for number in range(2):
        outbox.put(ask(f"question {number}"), "near", ended())
    away = ScriptedEngine(error=CloudFailed("it broke"))
    for tries in range(1, 5):
        assert await run(outbox, away) == []
        assert [each.tries for each in outbox.pending()] == [tries, 0]
    await run(outbox, away)
    assert [each.request.prompt for each in outbox.pending()] == ["question 1"]


async def test_a_cloud_that_nothing_reached_was_not_tried(outbox: Outbox) -> None:
    outbox.put(ask(), "near", ended())
    away = ScriptedEngine(error=CloudUnreachable("nobody"))
    for _ in range(7):
        assert await run(outbox, away) == []
    assert [each.tries for each in outbox.pending()] == [0]


async def test_two_that_run_at_once_ask_once(outbox: Outbox, tmp_path: Path) -> None:
    outbox.put(ask(), "near", ended())
    other, hold = Outbox(tmp_path / "outbox" / "waiting.json"), asyncio.Event()
    cloud = ScriptedEngine(hold=hold)
    first = asyncio.ensure_future(run(outbox, cloud))
    await cloud.until(lambda: len(cloud.requests) == 1)
    assert await run(other, cloud) == [] and len(cloud.requests) == 1
    hold.set()
    assert len(await first) == 1 and await run(other, cloud) == []
    other.put(ask("another"), "near", ended())
    assert len(await run(other, ScriptedEngine())) == 1  # the turn is given back


async def test_only_what_is_wanted_is_asked_and_a_session_is_forgotten_whole(
    outbox: Outbox,
) -> None:
    for session in ("kept", "deleted", None):
        outbox.put(ask("question", session=session), "near", ended())
    outbox.forget_session("deleted")
    cloud = ScriptedEngine()
    found = [
        better
        async for better in outbox.run(cloud, wanted=lambda each: each.request.session is not None)
    ]
    assert [better.waiting.request.session for better in found] == ["kept"]
    assert [each.request.session for each in outbox.pending()] == [None]


@pytest.mark.parametrize("error", [EgressBlocked("no"), RequestError("no")])
async def test_a_question_that_can_never_be_asked_does_not_wait(
    outbox: Outbox, error: Exception
) -> None:
    outbox.put(ask(), "near", ended())
    assert await run(outbox, ScriptedEngine(error=error)) == []
    assert outbox.pending() == []


async def test_an_answer_that_was_withdrawn_is_not_offered(outbox: Outbox) -> None:
    outbox.put(ask(), "near", ended())
    again = Delta(text="all anew", index=1, replaces=True)
    (better,) = await run(outbox, ScriptedEngine(["half", again]))
    assert better.answer == "all anew"


async def test_a_reader_who_leaves_early_loses_nothing(outbox: Outbox) -> None:
    outbox.put(ask(), "near", ended())
    stream = outbox.run(ScriptedEngine())
    await anext(stream)
    await stream.aclose()  # type: ignore[attr-defined]
    assert len(outbox.pending()) == 1


def test_one_or_all_can_be_forgotten(outbox: Outbox) -> None:
    names = [outbox.put(ask(f"{number}"), "near", ended()) for number in range(3)]
    assert outbox.forget(names[0] or "") == 1 and outbox.forget("unknown") == 0
    assert outbox.forget("all") == 2 and outbox.pending() == []


def test_a_folder_that_takes_nothing_stops_no_answer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    blocked = Outbox(tmp_path / "file" / "waiting.json")
    assert blocked.put(ask("a question"), "near", ended()) is None
    warnings = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert len(warnings) == 1 and "a question" not in caplog.text
