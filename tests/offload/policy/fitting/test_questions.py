"""Whether an answer is right, by each way to grade it."""

from __future__ import annotations

from pathlib import Path

import pytest

from offload.errors import RequestError
from offload.policy.fitting.answer_table import key_of
from offload.policy.fitting.questions import (
    Question,
    by_kind,
    exact,
    find_grader,
    given,
    is_right,
    numeric,
    read_questions,
)
from offload.policy.serving.answer_checks import final_answer


def test_graders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert numeric("so it is 1,250.0 in all", Question(question="?", answer="1250"))
    assert not numeric("nothing", Question(question="?", answer="1250"))
    assert exact("Hi!", Question(question="?", answer="Hello!", others=("Hi!",)))
    (tmp_path / "own_grader_module.py").write_text("def says_yes(text, question): return True\n")
    monkeypatch.chdir(tmp_path)
    question = Question(question="?", answer="!")
    assert find_grader("own_grader_module:says_yes")("", question)
    assert find_grader("exact") is exact and find_grader("kind") is by_kind
    for name in ("magic", "no_such_module:f", "json:no_such"):
        with pytest.raises(RequestError):
            find_grader(name)


@pytest.mark.parametrize(
    ("kind", "answer", "text", "right"),
    [
        ("number", "12", "3 * 4 is 12.\nAnswer: $12.00", True),
        ("number", "12", "Answer: 13, not 12 as such", True),
        ("number", "12", "Answer: none", False),
        ("choice", "(B)", "Answer: (B) the quail", True),
        ("choice", "(B)", "Answer: B", True),
        ("choice", "(B)", "Answer: (A), then (B)", False),
        ("choice", "(B)", "Answer: 3", False),
        ("word", "invalid", "Answer: Invalid.", True),
        ("word", "valid", "Answer: invalid", False),
        ("word", "No", "Answer: not known", False),
        ("mention", "Paris", "That is Paris, of course.", True),
        ("mention", "Paris", "In a parish.", False),
        ("", "No", "Answer: no.", True),
        ("", "No", "Answer: no, never", False),
    ],
)
def test_a_question_is_graded_by_its_kind(kind: str, answer: str, text: str, right: bool) -> None:
    assert by_kind(text, Question(kind=kind, question="?", answer=answer)) is right


def test_only_question_and_answer_are_needed(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text('{"question": "a?", "answer": "b"}\n{"question": "c?", "answer": "d"}\n')
    first, second = read_questions(path)
    assert first.id == "line 1" and key_of(first) != key_of(second)


@pytest.mark.parametrize(
    ("kind", "text", "proper"),
    [
        ("number", "2 + 2 = 4\nAnswer: $1,250.50", "1250.5"),
        ("number", "Answer: none", ""),
        ("choice", "Answer: (B) the quail", "B"),
        ("word", "Answer: No, never", "no"),
        ("", "Answer: something longer", ""),
    ],
)
def test_the_answer_proper_is_kept_where_it_is_no_text(kind: str, text: str, proper: str) -> None:
    assert given(text, Question(kind=kind, question="?", answer="1")) == proper


@pytest.mark.parametrize(
    ("text", "answer", "right"),
    [
        ("42", "42", True),
        (" 42. ", "42", True),
        ("2+4=6. Answer: 42", "42", True),
        ("42 Answer: 41", "42", False),
        ("paris", "Paris", True),
        ('{"age": 3, "name": "A"}', '{"name":"A","age":3}', True),
        ('{"age": 3', '{"name":"A","age":3}', False),
        ("1, 2,  3", "1, 2, 3", True),
        ("", "42", False),
    ],
)
def test_answers_are_graded_exactly(text: str, answer: str, right: bool) -> None:
    assert is_right(text, answer) is right


def test_the_last_answer_counts() -> None:
    assert final_answer("Answer: 1. Answer: 2") == "2"


def test_a_damaged_bank_names_its_line(tmp_path: Path) -> None:
    path = tmp_path / "bank.jsonl"
    path.write_text('{"id": "1"}\n')
    with pytest.raises(RequestError, match="line 1"):
        read_questions(path)
    with pytest.raises(RequestError, match="does not exist"):
        read_questions(tmp_path / "none.jsonl")
