from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from backbone.errors import WrongUsage
from offload.commands.policy import policy_app
from offload.errors import RequestError
from offload.policy.fitting.evaluate import evaluate, read_outcomes, split_tables
from tests.offload.made_outcomes import made_rows, write_rows


@pytest.fixture
def tables(tmp_path: Path) -> tuple[Path, Path]:
    train = write_rows(tmp_path / "train.jsonl", made_rows(260, seed=1, answers=True))
    return write_rows(tmp_path / "test.jsonl", made_rows(300, seed=2, answers=True)), train


def test_every_row_of_another_table_is_scored_and_well(tables: tuple[Path, Path]) -> None:
    found = evaluate(*tables, labels=200, resamples=50)
    assert (found.num_questions, found.num_labels, found.num_unlabelled) == (300, 200, 60)
    assert found.prior == "fitted" and found.notes == []
    assert found.apgr > 0.65 and found.intervals["apgr"][0] < found.apgr
    assert found.cpt50 < found.cpt80 < found.cpt95 < 1.0
    assert found.ceilings["oracle"]["apgr"] > found.ceilings["self_knowledge"]["apgr"] > found.apgr


def test_reading_the_answer_helps_where_the_answer_tells(tables: tuple[Path, Path]) -> None:
    prompt = evaluate(*tables, labels=200, resamples=10)
    both = evaluate(*tables, labels=200, resamples=10, features="prompt+answer")
    assert both.apgr > prompt.apgr + 0.1


def test_the_same_seed_gives_the_same_figures(tables: tuple[Path, Path]) -> None:
    first, second, other = (evaluate(*tables, labels=100, seed=s, resamples=10) for s in (0, 0, 1))
    assert first == second != other


def test_no_row_is_both_fitted_on_and_scored(tables: tuple[Path, Path]) -> None:
    test, train = (read_outcomes(path) for path in tables)
    for fit in (train, test, [*train, *test[:50]], test[:100]):
        split = split_tables(test, fit, labels=80, seed=3)
        scored = {row.prompt for row in split.scored}
        assert scored and split.labelled
        assert not scored & {row.prompt for row in [*split.labelled, *split.unlabelled]}


def test_the_same_file_is_split_in_halves_and_says_so(tables: tuple[Path, Path]) -> None:
    found = evaluate(tables[0], tables[0], labels=1500, resamples=10)
    assert (found.num_labels, found.num_questions) == (150, 150)
    assert "one half" in found.split


def test_ten_labels_fall_back_to_the_default_and_say_so(tables: tuple[Path, Path]) -> None:
    found = evaluate(*tables, labels=10, resamples=10)
    assert found.prior == "default" and found.num_labels == 0
    assert "too few" in found.notes[0]


def test_one_class_labels_fall_back_to_the_default_and_say_so(
    tables: tuple[Path, Path], tmp_path: Path
) -> None:
    rows = [row | {"weak_correct": True} for row in made_rows(100)]
    found = evaluate(tables[0], write_rows(tmp_path / "one.jsonl", rows), resamples=10)
    assert found.prior == "default" and "always right" in found.notes[0]


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[1, 2]",
        '{"prompt": "a", "weak_correct": true}',
        '{"prompt": "a", "weak_correct": "yes", "strong_correct": true}',
        '{"prompt": 3, "weak_correct": true, "strong_correct": true}',
    ],
)
def test_a_malformed_row_is_named_by_its_line(tmp_path: Path, line: str) -> None:
    path = write_rows(tmp_path / "rows.jsonl", made_rows(2))
    path.write_text(f"{path.read_text()}\n{line}\n")
    with pytest.raises(RequestError, match=r"rows\.jsonl, line 4.*a row needs"):
        read_outcomes(path)


def test_bytes_that_are_no_text_are_named_by_their_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"prompt": "\xff", "weak_correct": true, "strong_correct": true}\n')
    with pytest.raises(RequestError, match="line 1"):
        read_outcomes(path)


def test_missing_and_empty_files_and_wrong_options_are_refused(
    tables: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(RequestError, match="cannot be read"):
        evaluate(tmp_path / "none.jsonl", tables[1])
    with pytest.raises(RequestError, match="has no rows"):
        evaluate(write_rows(tmp_path / "empty.jsonl", []), tables[1])
    with pytest.raises(WrongUsage, match="--features"):
        evaluate(*tables, features="magic")
    with pytest.raises(WrongUsage, match="--labels"):
        evaluate(*tables, labels=0)
    plain = write_rows(tmp_path / "plain.jsonl", made_rows(80))
    with pytest.raises(RequestError, match="weak_response"):
        evaluate(tables[0], plain, features="prompt+answer")


def test_the_command_prints_one_json_document(tables: tuple[Path, Path]) -> None:
    options = ["--outcomes", str(tables[0]), "--fit", str(tables[1]), "--labels", "100"]
    result = CliRunner().invoke(policy_app, ["evaluate", *options, "--json"])
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert {"apgr", "cpt50", "cpt80", "cpt95", "num_questions", "intervals", "ceilings"} <= set(
        found
    )
    told = CliRunner().invoke(policy_app, ["evaluate", *options])
    assert "APGR" in told.stdout and "oracle" in told.stdout


def test_the_curve_can_be_drawn(tables: tuple[Path, Path], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the picture needs the extra `plot`")
    path = tmp_path / "curve.png"
    evaluate(*tables, labels=100, resamples=10, plot=path)
    assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 10_000
    with pytest.raises(RequestError, match="cannot be written"):
        evaluate(*tables, labels=100, resamples=10, plot=tmp_path / "no" / "curve.png")


def test_tasks_that_were_not_learned_from_are_scored_apart(
    tables: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(RequestError, match="--unseen-tasks"):
        evaluate(*tables, labels=100, resamples=10, unseen_tasks=True)
    paths = []
    for name, seed in (("train", 1), ("test", 2)):
        rows = [
            row | {"task": "abcd"[place % 4]} for place, row in enumerate(made_rows(260, seed=seed))
        ]
        paths.append(write_rows(tmp_path / f"{name}.jsonl", rows))
    found = evaluate(paths[1], paths[0], labels=200, resamples=10, unseen_tasks=True)
    assert found.unseen_tasks is not None and found.unseen_tasks["apgr"] > 0.5
