"""Labels without truth come from comparing answers, and from a judge that is itself tried."""

from __future__ import annotations

from contextlib import aclosing
from pathlib import Path

import pytest

from offload.engine import AnswerStream
from offload.errors import CloudUnreachable, RequestError
from offload.messages import Request
from offload.policy.fitting.answer_table import AnswerRow, AnswerTable, key_of
from offload.policy.fitting.ask_questions import QuestionOptions
from offload.policy.fitting.far_labels import FarLabels, agrees, label_by_far, read_prompts
from offload.policy.fitting.questions import Question, exact
from offload.policy.serving.consistency import QuestionForm
from tests.offload.scripted import ScriptedEngine

OPTIONS = "Which is red?\n(A) grass\n(B) blood"


@pytest.mark.parametrize(
    ("question", "near", "far", "same"),
    [
        ("How many legs have 3 cats?", "3 * 4 = 12", "They have 12 legs.\nAnswer: 12", True),
        ("How many legs have 3 cats?", "Answer: 7", "Answer: 12", False),
        ("How many legs have 3 cats?", "I cannot say", "Answer: 12", False),
        (OPTIONS, "(B)", "It is blood.\nAnswer: B", True),
        (OPTIONS, "(A) grass", "(B)", False),
        ("Name and age as JSON?", '{"a": 1, "b": 2}', '```json\n{"b": 2, "a": 1}\n```', True),
        ("Name and age as JSON?", "a is 1", '{"a": 1}', False),
        ("Capital of France?", "The capital of France is Paris.", "Paris", True),
        ("Capital of France?", "It is Lyon.", "Paris.", False),
        ("Capital of France?", "<think>Lyon?</think>Paris", "<think>easy</think>Paris", True),
        ("Write a poem", "Roses are red", "The sea is wide and never still", None),
        (OPTIONS, "(A)", "Neither of them can be called that", None),
        ("How many are there?", "12", "Nobody has counted them so far", None),
    ],
)
def test_answers_are_compared_by_what_the_question_asks_for(
    question: str, near: str, far: str, same: bool | None
) -> None:
    assert agrees(near, far, QuestionForm.read(question)) is same


def test_prompts_are_lines_of_text_or_of_json(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text('{"question": "One?"}\n\n{"prompt": "Two?", "x": 1}\nThree?\nOne?\n{a\n')
    assert [each.question for each in read_prompts(path)] == ["One?", "Two?", "Three?", "{a"]
    assert [each.question for each in read_prompts(path, budget=2)] == ["One?", "Two?"]


@pytest.mark.parametrize("content", [b"\n \n", b"\xff\xfe", None])
def test_a_file_without_prompts_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "prompts.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RequestError, match="a line"):
        read_prompts(path)


QUESTIONS = [Question(id=str(n), question=f"Tell of animal {n}", answer="") for n in range(8)]


def table(path: Path, says: str) -> AnswerTable:
    made = AnswerTable(path)
    made.add(
        [
            AnswerRow(id=q.id, key=key_of(q), right=False, text=f"{says} animal {q.id} at length")
            for q in QUESTIONS
        ]
    )
    return made


async def judged_by(verdict: ScriptedEngine, tmp_path: Path) -> FarLabels:
    near, far = table(tmp_path / "near", "Here is"), table(tmp_path / "far", "This is about")
    verdicts = AnswerTable(tmp_path / "judged")
    how = QuestionOptions(grader=exact, keep_text=True)
    return await label_by_far(QUESTIONS, near, far, verdict, verdicts, how)


def says_the_same(request: Request) -> list[str]:
    """Judge as a reader would: yes where both answers are about the same animal, save the 5th."""
    text = request.last_text()
    numbers = [
        line.split("animal ")[1].split()[0] for line in text.splitlines() if "animal" in line
    ]
    return ["Yes" if len(set(numbers)) == 1 and numbers[0] != "5" else "No."]


async def test_what_cannot_be_compared_is_judged(tmp_path: Path) -> None:
    labels = await judged_by(ScriptedEngine(script=says_the_same), tmp_path)
    assert labels.believed and labels.false_yes == 0.0
    assert (labels.num_compared, labels.num_judged, labels.num_left_out) == (0, 8, 0)
    assert [row.near_right for row in labels.rows] == [n != 5 for n in range(8)]
    assert all(row.far_right for row in labels.rows)


async def test_a_judge_that_says_yes_to_everything_is_not_believed(tmp_path: Path) -> None:
    labels = await judged_by(ScriptedEngine(script=lambda request: ["yes"]), tmp_path)
    assert not labels.believed and labels.false_yes == 1.0
    assert labels.rows == [] and labels.num_left_out == 8


async def test_verdicts_are_kept_and_not_asked_for_again(tmp_path: Path) -> None:
    judge = ScriptedEngine(script=says_the_same)
    await judged_by(judge, tmp_path)
    asked = len(judge.requests)
    near, far = AnswerTable(tmp_path / "near"), AnswerTable(tmp_path / "far")
    verdicts, how = AnswerTable(tmp_path / "judged"), QuestionOptions(grader=exact, keep_text=True)
    await label_by_far(QUESTIONS, near, far, judge, verdicts, how)
    assert len(judge.requests) == asked == 16


class Silent(ScriptedEngine):
    """A judge that never answers of one animal, as a far side that times out."""

    async def generate(self, request: Request) -> AnswerStream:
        async with aclosing(super().generate(request)) as answer:
            async for item in answer:
                if "Tell of animal 3" in request.last_text():
                    raise CloudUnreachable("it does not answer")
                yield item


async def test_a_judgement_that_never_comes_is_asked_again_and_skipped_at_last(
    tmp_path: Path,
) -> None:
    waited: list[float] = []

    async def pause(seconds: float) -> None:
        waited.append(seconds)

    near, far = table(tmp_path / "near", "Here is"), table(tmp_path / "far", "This is about")
    how = QuestionOptions(grader=exact, keep_text=True, at_once=1, pause=pause)
    judge, verdicts = Silent(script=says_the_same), AnswerTable(tmp_path / "judged")
    labels = await label_by_far(QUESTIONS, near, far, judge, verdicts, how)
    assert (labels.num_judged, labels.num_left_out, labels.believed) == (7, 1, True)
    assert [row.near.id for row in labels.rows] == [q.id for q in QUESTIONS if q.id != "3"]
    # of it, and of the swapped answer: three waits each, longer and longer
    assert len(waited) == 6 and waited[0] < waited[1] < waited[2]


async def test_an_answer_that_broke_off_far_is_no_truth(tmp_path: Path) -> None:
    near = table(tmp_path / "near", "Here is")
    far = AnswerTable(tmp_path / "far")
    far.add([AnswerRow(id=q.id, key=key_of(q), right=False, ended="error") for q in QUESTIONS])
    verdicts, how = AnswerTable(tmp_path / "judged"), QuestionOptions(grader=exact)
    labels = await label_by_far(QUESTIONS, near, far, ScriptedEngine(), verdicts, how)
    assert labels.rows == [] and labels.num_left_out == 8


def test_a_table_with_texts_is_its_owners_alone(tmp_path: Path) -> None:
    table(tmp_path / "near", "Here is")
    assert (tmp_path / "near").stat().st_mode & 0o077 == 0
