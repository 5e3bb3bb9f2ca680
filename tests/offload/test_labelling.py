"""Labelling asks each question once, and goes on where it was stopped."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from offload.errors import CloudFailed, CloudUnreachable, RequestError
from offload.messages import Delta, Finish, Request
from offload.policy.grading import exact, find_grader, numeric
from offload.policy.labelled import Labels, key_of
from offload.policy.labelling import label
from offload.policy.questions import Question, read_questions
from tests.offload.scripted import ScriptedEngine

QUESTIONS = [Question(id=str(n), question=f"{n} + 0?", answer=str(n)) for n in range(20)]


def _knows(below: int) -> ScriptedEngine:
    def say(request: Request) -> list[str]:
        number = int(request.last_text().split()[0])
        return [str(number)] if number < below else ["I do not know"]

    return ScriptedEngine(script=say)


async def test_every_question_is_asked_once_of_both(tmp_path: Path) -> None:
    edge, cloud, labels = _knows(12), _knows(18), Labels(tmp_path / "a.jsonl")
    heard: list[int] = []
    await label(QUESTIONS, edge, cloud, labels, grader=exact, told=heard.append)
    rows = labels.of(QUESTIONS)
    assert [row.near_right for row in rows] == [n < 12 for n in range(20)]
    assert [row.far_right for row in rows] == [n < 18 for n in range(20)]
    assert rows[15].flags == ("declines",) and len(rows[0].confidence) == 1
    assert heard == sorted(heard) and heard[-1] == 20
    await label(QUESTIONS, edge, cloud, labels, grader=exact)
    assert len(edge.requests) == len(cloud.requests) == 20


async def test_a_run_that_was_stopped_goes_on_where_it_was(tmp_path: Path) -> None:
    path, edge = tmp_path / "a.jsonl", _knows(12)
    held = asyncio.Event()
    cloud = ScriptedEngine(
        script=lambda request: [request.last_text().split()[0]], hold=held, hold_before=0
    )
    job = asyncio.ensure_future(label(QUESTIONS, edge, cloud, Labels(path), grader=exact))
    await cloud.until(lambda: len(cloud.requests) == 8)
    job.cancel()
    await asyncio.gather(job, return_exceptions=True)
    await label(QUESTIONS[:8], edge, _knows(99), Labels(path), grader=exact)
    with path.open("ab") as file:
        file.write(b'{"key": "cut sho')
    other = _knows(99)
    await label(QUESTIONS, other, _knows(99), Labels(path), grader=exact)
    assert len(other.requests) == 12


async def no_pause(_: float) -> None:
    """Go on at once."""


class Flaky(ScriptedEngine):
    """A cloud that falls silent the first `times` that it is asked one of `at`."""

    def __init__(self, at: set[int], times: int) -> None:
        super().__init__(script=lambda request: [request.last_text().split()[0]])
        self.at, self.left = at, dict.fromkeys(at, times)

    async def generate(self, request: Request) -> AsyncIterator[Delta | Finish]:
        number = int(request.last_text().split()[0])
        if self.left.get(number, 0) > 0:
            self.left[number] -= 1
            raise CloudFailed("it fell silent in the middle; ask again")
        async for item in super().generate(request):
            yield item


async def test_a_cloud_that_falls_silent_is_asked_again_after_longer_and_longer(
    tmp_path: Path,
) -> None:
    labels, waits = Labels(tmp_path / "a.jsonl"), list[float]()

    async def pause(wait_s: float) -> None:
        waits.append(wait_s)

    cloud = Flaky({3}, times=3)
    assert await label(QUESTIONS, _knows(9), cloud, labels, grader=exact, pause=pause) == 0
    assert len(labels.found) == 20
    assert len(waits) == 3 and 0.5 <= waits[0] <= 1 <= waits[1] <= 2 <= waits[2] <= 4


async def test_a_question_that_gets_no_answer_is_skipped_and_asked_in_the_next_run(
    tmp_path: Path,
) -> None:
    labels = Labels(tmp_path / "a.jsonl")
    cloud = Flaky({3, 17}, times=99)
    assert await label(QUESTIONS, _knows(9), cloud, labels, grader=exact, pause=no_pause) == 2
    assert len(labels.found) == 18
    edge = _knows(9)
    assert await label(QUESTIONS, edge, _knows(99), labels, grader=exact) == 0
    assert sorted(each.last_text() for each in edge.requests) == ["17 + 0?", "3 + 0?"]


async def test_a_lost_cloud_keeps_what_was_answered(tmp_path: Path) -> None:
    labels = Labels(tmp_path / "a.jsonl")
    await label(QUESTIONS[:8], _knows(9), _knows(9), labels, grader=exact)
    gone = ScriptedEngine(error=CloudUnreachable("gone"))
    with pytest.raises(CloudUnreachable):
        await label(QUESTIONS, _knows(9), gone, labels, grader=exact, pause=no_pause)
    assert len(Labels(labels.path).found) == 8
    with pytest.raises(RequestError, match="12 questions have not been asked"):
        labels.of(QUESTIONS)


async def test_no_text_is_kept(tmp_path: Path) -> None:
    labels = Labels(tmp_path / "a.jsonl")
    await label(QUESTIONS[15:16], _knows(9), _knows(9), labels, grader=exact)
    assert b"know" not in labels.path.read_bytes() and b"15 +" not in labels.path.read_bytes()


def test_graders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert numeric("so it is 1,250.0 in all", Question(question="?", answer="1250"))
    assert not numeric("nothing", Question(question="?", answer="1250"))
    assert exact("Hi!", Question(question="?", answer="Hello!", others=("Hi!",)))
    (tmp_path / "own_grader_module.py").write_text("def says_yes(text, question): return True\n")
    monkeypatch.chdir(tmp_path)
    assert find_grader("own_grader_module:says_yes")("", QUESTIONS[0])
    assert find_grader("exact") is exact
    for name in ("magic", "no_such_module:f", "json:no_such"):
        with pytest.raises(RequestError):
            find_grader(name)


def test_only_question_and_answer_are_needed(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text('{"question": "a?", "answer": "b"}\n{"question": "c?", "answer": "d"}\n')
    first, second = read_questions(path)
    assert first.id == "line 1" and key_of(first) != key_of(second)
