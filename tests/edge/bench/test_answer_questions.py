"""`nearfar policy answers` with the embedded model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from backbone.errors import WrongUsage
from edge.bench.cli import policy_app
from offload.errors import RequestError, SettingsError
from offload.policy.fitting.answer_table import read_answers

QUESTIONS = [
    {"id": "sum", "set": "sums", "kind": "number", "question": "What is 2 + 3?", "answer": "5"},
    {"id": "word", "set": "words", "kind": "word", "question": "Is 7 odd?", "answer": "yes"},
]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEARFAR_HOME", str(tmp_path / "home"))


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "q.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in QUESTIONS))
    return path


def _answers(questions: Path, *flags: str) -> str:
    words = ["answers", "--questions", str(questions), "--out", str(questions.with_name("t.jsonl"))]
    result = CliRunner().invoke(policy_app, [*words, *flags], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_near_model_answers_every_question_once(questions: Path) -> None:
    found = json.loads(_answers(questions, "--json"))
    rows, _ = read_answers(Path(found["table"]))
    assert {row.id for row in rows} == {"sum", "word"} and found["left_out"] == 0
    assert found["right"] == sum(row.right for row in rows)
    for row in rows:
        num_tokens = len(row.tokens)
        assert num_tokens == len(row.kinds) == len(row.likely) == len(row.likely_kinds) > 0
        assert all(len(kinds) == 5 for kinds in row.likely_kinds)
        # Greedy: the chosen token is the likeliest one.
        assert row.tokens[0].logprob == pytest.approx(row.likely[0][0], abs=0.01)
        assert not row.text and not row.question and not row.states
    before = Path(found["table"]).read_bytes()
    assert "2 answers" in _answers(questions)
    assert Path(found["table"]).read_bytes() == before


def test_text_and_states_are_kept_where_they_are_asked_for(questions: Path) -> None:
    _answers(questions, "--text", "--states", "--alternatives", "0", "--at-once", "1")
    for row in read_answers(questions.with_name("t.jsonl"))[0]:
        assert row.text and row.question and len(row.hidden_states()) == len(row.tokens)
        assert not row.likely and not row.kinds


def test_what_cannot_be_asked_is_said(questions: Path) -> None:
    with pytest.raises(SettingsError, match="no far model is set up"):
        _answers(questions, "--far")
    with pytest.raises(WrongUsage, match="--at-once"):
        _answers(questions, "--at-once", "0")
    with pytest.raises(RequestError, match="no such questions"):
        _answers(questions, "--split", "none")
