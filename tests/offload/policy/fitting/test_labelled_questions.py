"""Labelling asks each question once of both models, and goes on where it was stopped."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from offload.errors import CloudFailed, CloudUnreachable, RequestError
from offload.messages import Request
from offload.policy.fitting.ask_questions import Pause, QuestionOptions
from offload.policy.fitting.labelled_questions import LabelTables, label_questions
from offload.policy.fitting.questions import Question, exact
from tests.offload.scripted import ScriptedEngine

QUESTIONS = [Question(id=str(n), question=f"{n} + 0?", answer=str(n)) for n in range(20)]


def _knows(below: int) -> ScriptedEngine:
    def say(request: Request) -> list[str]:
        number = int(request.last_text().split()[0])
        return [str(number)] if number < below else ["I do not know"]

    return ScriptedEngine(script=say)


async def no_pause(_: float) -> None:
    """Go on at once."""


def _how(pause: Pause = no_pause) -> QuestionOptions:
    return QuestionOptions(grader=exact, pause=pause)


def flaky(at: set[int], times: int) -> ScriptedEngine:
    """Return a cloud that falls silent the first `times` that it is asked one of `at`."""
    left = dict.fromkeys(at, times)

    def say(request: Request) -> list[str]:
        number = request.last_text().split()[0]
        if left.get(int(number), 0) > 0:
            left[int(number)] -= 1
            raise CloudFailed("it fell silent in the middle; ask again")
        return [number]

    return ScriptedEngine(script=say)


async def test_every_question_is_asked_once_of_both(tmp_path: Path) -> None:
    edge, cloud, labels = _knows(12), _knows(18), LabelTables.at(tmp_path / "a")
    heard: list[int] = []
    assert (
        await label_questions(QUESTIONS, edge, cloud, labels, _how(), on_progress=heard.append) == 0
    )
    questions, rows = labels.of(QUESTIONS)
    assert questions == QUESTIONS
    assert [row.near_right for row in rows] == [n < 12 for n in range(20)]
    assert [row.far_right for row in rows] == [n < 18 for n in range(20)]
    assert rows[15].near.flags == ("declines",) and len(rows[0].near.tokens) == 1
    assert heard == sorted(heard) and heard[-1] == 20
    await label_questions(QUESTIONS, edge, cloud, labels, _how())
    assert len(edge.requests) == len(cloud.requests) == 20


async def test_a_run_that_was_stopped_goes_on_where_it_was(tmp_path: Path) -> None:
    path, held = tmp_path / "a", asyncio.Event()
    cloud = ScriptedEngine(
        script=lambda request: [request.last_text().split()[0]], hold=held, hold_before=0
    )
    job = asyncio.ensure_future(
        label_questions(QUESTIONS, _knows(12), cloud, LabelTables.at(path), _how())
    )
    await cloud.until(lambda: len(cloud.requests) == 8)
    job.cancel()
    await asyncio.gather(job, return_exceptions=True)
    await label_questions(QUESTIONS[:8], _knows(12), _knows(99), LabelTables.at(path), _how())
    with (tmp_path / "a.far.jsonl").open("ab") as file:
        file.write(b'{"key": "cut sho')
    other = _knows(99)
    await label_questions(QUESTIONS, _knows(12), other, LabelTables.at(path), _how())
    assert len(other.requests) == 12
    again = _knows(99)
    await label_questions(QUESTIONS, _knows(12), again, LabelTables.at(path), _how())
    assert not again.requests, "the first answer behind a torn line is kept as well"


async def test_a_cloud_that_falls_silent_is_asked_again_after_longer_and_longer(
    tmp_path: Path,
) -> None:
    labels, waits = LabelTables.at(tmp_path / "a"), list[float]()

    async def pause(wait_s: float) -> None:
        waits.append(wait_s)

    cloud = flaky({3}, times=3)
    assert await label_questions(QUESTIONS, _knows(9), cloud, labels, _how(pause)) == 0
    assert len(labels.of(QUESTIONS)[1]) == 20
    assert len(waits) == 3 and 0.5 <= waits[0] <= 1 <= waits[1] <= 2 <= waits[2] <= 4


async def test_a_question_that_gets_no_answer_is_skipped_and_asked_in_the_next_run(
    tmp_path: Path,
) -> None:
    labels, cloud = LabelTables.at(tmp_path / "a"), flaky({3, 17}, times=99)
    assert await label_questions(QUESTIONS, _knows(9), cloud, labels, _how()) == 2
    questions, rows = labels.of(QUESTIONS)
    assert len(rows) == 18 and {"3", "17"}.isdisjoint(each.id for each in questions)
    again = _knows(99)
    assert await label_questions(QUESTIONS, _knows(9), again, labels, _how()) == 0
    assert sorted(each.last_text() for each in again.requests) == ["17 + 0?", "3 + 0?"]


async def test_a_lost_cloud_keeps_what_was_answered(tmp_path: Path) -> None:
    labels = LabelTables.at(tmp_path / "a")
    await label_questions(QUESTIONS[:8], _knows(9), _knows(9), labels, _how())
    gone = ScriptedEngine(error=CloudUnreachable("gone"))
    with pytest.raises(CloudUnreachable):
        await label_questions(QUESTIONS, _knows(9), gone, labels, _how())
    assert len(LabelTables.at(tmp_path / "a").of(QUESTIONS)[1]) == 8
    with pytest.raises(RequestError, match="no question has been asked"):
        labels.of(QUESTIONS[8:])
