"""What a table of answers holds, and when asking one engine ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from offload.errors import CloudUnreachable, EgressBlocked, KeyRefused, Overloaded, RequestError
from offload.messages import Alternative, Confidence, Delta, Finish, Sampling
from offload.policy.fitting.answer_table import AnswerRow, AnswerTable, read_answers
from offload.policy.fitting.ask_questions import ATTEMPTS, QuestionOptions, ask_all
from offload.policy.fitting.questions import Question, by_kind, exact
from tests.offload.policy.fitting.test_labelled_questions import QUESTIONS, flaky, no_pause
from tests.offload.scripted import ScriptedEngine

HOW = QuestionOptions(grader=exact, pause=no_pause)


async def test_a_row_says_how_sure_each_token_was_and_of_what_kind(tmp_path: Path) -> None:
    said = Delta(
        text=" 42",
        token_ids=(7,),
        confidence=(Confidence(-0.12345, 0.5, 1.0),),
        alternatives=((Alternative(7, " 42", -0.123), Alternative(9, " about", -2.5)),),
    )
    engine = ScriptedEngine([said], finish=Finish(reason="length"))
    table = AnswerTable(tmp_path / "a.jsonl")
    question = Question(id="q", set="sums", kind="number", question="6 * 7?", answer="42")
    drawn = Sampling(temperature=0.7, top_p=0.9, logprobs=2)
    how = QuestionOptions(grader=by_kind, sampling=drawn)
    assert await ask_all([question], engine, table, how) == 0
    (row,), notes = read_answers(tmp_path / "a.jsonl")
    assert (row.id, row.set, row.right, row.ended) == ("q", "sums", True, "length")
    assert row.tokens == (Confidence(-0.123, 0.5, 1.0),) and not notes
    assert (row.kinds, row.likely_kinds, row.likely) == ("n", ("nw",), ((-0.12, -2.5),))
    assert (row.model, row.sampling) == ("scripted", "temperature 0.7, top_p 0.9, 256 tokens")


@pytest.mark.parametrize("keep", [False, True])
async def test_text_is_kept_only_where_it_is_asked_for(tmp_path: Path, keep: bool) -> None:
    path = tmp_path / "a.jsonl"
    how = QuestionOptions(grader=exact, keep_text=keep)
    await ask_all(QUESTIONS[:1], ScriptedEngine(["a zebra"]), AnswerTable(path), how)
    assert (b"zebra" in path.read_bytes()) is (b"0 + 0" in path.read_bytes()) is keep


async def test_an_answer_that_broke_off_is_a_wrong_one(tmp_path: Path) -> None:
    engine = ScriptedEngine(["0"], finish=Finish(reason="error", error="no more"))
    table = AnswerTable(tmp_path / "a.jsonl")
    await ask_all(QUESTIONS[:1], engine, table, HOW)
    (row,) = table.found.values()
    assert not row.right and row.ended == "error"


async def test_a_table_of_another_model_or_sampling_is_refused(tmp_path: Path) -> None:
    table = AnswerTable(tmp_path / "a.jsonl")
    await ask_all(QUESTIONS[:1], ScriptedEngine(["0"]), table, HOW)
    warm = QuestionOptions(grader=exact, sampling=Sampling(temperature=1.0))
    with pytest.raises(RequestError, match="name another file"):
        await ask_all(QUESTIONS, ScriptedEngine(["0"]), table, warm)


@pytest.mark.parametrize(
    ("error", "num_asked"),
    [
        (CloudUnreachable("gone"), 8 * ATTEMPTS),
        (Overloaded("busy", 3.0), 8 * ATTEMPTS),
        (KeyRefused("unknown"), 1),
    ],
)
async def test_an_engine_that_is_gone_ends_the_run(
    tmp_path: Path, error: Exception, num_asked: int
) -> None:
    engine = ScriptedEngine(error=error)
    how = QuestionOptions(grader=exact, at_once=1, pause=no_pause)
    with pytest.raises(type(error)):
        await ask_all(QUESTIONS, engine, AnswerTable(tmp_path / "a.jsonl"), how)
    assert len(engine.requests) == num_asked


async def test_a_silence_is_waited_out_and_what_stays_silent_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    assert await ask_all(QUESTIONS, flaky({3}, times=ATTEMPTS - 1), AnswerTable(path), HOW) == 0
    table = AnswerTable(tmp_path / "b.jsonl")
    assert await ask_all(QUESTIONS, flaky({3, 17}, times=99), table, HOW) == 2
    assert len(table.found) == 18


async def test_withheld_questions_are_left_out_and_never_end_a_run(tmp_path: Path) -> None:
    engine = ScriptedEngine(error=EgressBlocked("it holds an address"))
    assert await ask_all(QUESTIONS, engine, AnswerTable(tmp_path / "a.jsonl"), HOW) == 20
    assert len(engine.requests) == 20


async def test_a_busy_engine_is_waited_for_as_long_as_it_says(tmp_path: Path) -> None:
    waits = list[float]()

    async def pause(wait_s: float) -> None:
        waits.append(wait_s)

    engine = ScriptedEngine(error=Overloaded("busy", 30.0))
    with pytest.raises(Overloaded):
        how = QuestionOptions(grader=exact, at_once=1, pause=pause)
        await ask_all(QUESTIONS[:1], engine, AnswerTable(tmp_path / "a.jsonl"), how)
    assert waits == [30.0] * (ATTEMPTS - 1)


def _table(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines))
    return path


ROW = '{"id": "%s", "right": true, "tokens": [[-0.1, 0.2, 3.0]], "ended": "stop", "new": 1}'


def test_fields_that_are_not_known_are_let_pass(tmp_path: Path) -> None:
    rows, notes = read_answers(_table(tmp_path / "a.jsonl", ROW % "a", "", ROW % "b"))
    assert [row.id for row in rows] == ["a", "b"] and not notes


def test_a_table_that_was_cut_in_a_line_is_read_without_it(tmp_path: Path) -> None:
    rows, notes = read_answers(_table(tmp_path / "a.jsonl", ROW % "a", (ROW % "b")[:30]))
    assert len(rows) == 1 and "cut short" in notes[0]


def test_what_is_no_number_is_the_greatest_doubt(tmp_path: Path) -> None:
    line = ROW.replace("-0.1, 0.2, 3.0", "NaN, Infinity, NaN") % "a"
    rows, notes = read_answers(_table(tmp_path / "a.jsonl", line))
    assert rows[0].signals().least == -30.0 and "greatest doubt" in notes[0]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["no json", ROW % "a"], "line 1 is no answer"),
        (['{"right": true}', ROW % "a"], "needs id and right"),
        ([ROW % "a", ROW % "a"], "two rows of the id 'a'"),
        ([], "no rows"),
    ],
)
def test_a_table_that_is_none_is_named(tmp_path: Path, lines: list[str], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        read_answers(_table(tmp_path / "a.jsonl", *lines))
    with pytest.raises(RequestError, match="cannot be read"):
        read_answers(tmp_path / "none.jsonl")


def test_a_row_that_is_written_is_read_back(tmp_path: Path) -> None:
    table = AnswerTable(tmp_path / "new" / "a.jsonl")
    table.add([AnswerRow(id="a", right=False, tokens=(Confidence(-1.0, 0.5, 0.25),))])
    assert read_answers(table.path)[0] == list(table.found.values())
