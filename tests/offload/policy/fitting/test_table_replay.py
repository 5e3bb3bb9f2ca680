"""How well rules decide on two tables of answers."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from backbone.errors import WrongUsage
from offload.commands.policy import policy_app
from offload.errors import RequestError
from offload.policy.fitting.table_replay import TableReplay, evaluate_answers
from offload.policy.serving.first_day import first_day
from offload.policy.serving.rule import ThresholdRule

KEYS = [
    "auroc",
    "auroc_within_sets",
    "apgr",
    "asked_far",
    "accuracy_near",
    "accuracy_far",
    "accuracy_hybrid",
    "ece",
]


def _tables(
    folder: Path, *, number: int = 200, far: float = 0.9, near: float = 0.5, tells: float = 2.0
) -> tuple[Path, Path]:
    """Write two tables; a wrong near answer's tokens are less sure by `tells` nats."""
    generator, lines = np.random.default_rng(0), ([], [])  # type: ignore[var-annotated]
    for place in range(number):
        right = bool(generator.random() < near)
        doubt = generator.gamma(1.0, 0.3, 4) + (0.0 if right else tells)
        row = {"id": f"q{place}", "set": "ab"[place % 2], "question": f"{place}?", "right": right}
        tokens = [[-float(each), float(each), 1.0 / (0.1 + float(each))] for each in doubt]
        lines[0].append(row | {"text": "so", "tokens": tokens, "ended": "stop"})
        lines[1].append(row | {"right": bool(generator.random() < far)})
    paths = folder / "near.jsonl", folder / "far.jsonl"
    for path, rows in zip(paths, lines, strict=True):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return paths


def _run(near: Path, far: Path) -> TableReplay:
    found = evaluate_answers(near, far, ThresholdRule(), named="least")
    assert "does not say" in found.notes.pop()
    return found


def test_a_rule_that_sees_the_doubt_is_better_than_chance_and_worse_than_perfect(
    tmp_path: Path,
) -> None:
    found = _run(*_tables(tmp_path))
    chance, perfect = (found.baselines[name] for name in ("random", "perfect_self_knowledge"))
    assert found.num_questions == 200 and not found.notes
    for name in ("auroc", "auroc_within_sets", "apgr"):
        low, middle, high = (getattr(each, name) for each in (chance, found, perfect))
        assert low == pytest.approx(0.5, abs=1e-9) and low + 0.1 < middle < high + 0.02, name
        below, above = found.intervals[name]
        assert below < middle < above
    assert perfect.auroc == 1.0 and perfect.ece == 0.0
    assert found.baselines["least"].auroc == found.auroc


def test_baselines_ask_far_as_often_as_the_rule(tmp_path: Path) -> None:
    found = _run(*_tables(tmp_path))
    assert found.asked_far is not None and 0.1 < found.asked_far < 0.9
    near, far = found.accuracy_near, found.accuracy_far
    assert near is not None and far is not None
    for name, each in found.baselines.items():
        assert each.asked_far == pytest.approx(found.asked_far), name
    # At random, each request that goes far gains what far is better on average.
    mixed = near + found.asked_far * (far - near)
    assert found.baselines["random"].accuracy_hybrid == pytest.approx(mixed)
    assert found.accuracy_hybrid is not None and found.accuracy_hybrid > mixed


def test_a_set_of_one_class_says_nothing_within_sets(tmp_path: Path) -> None:
    near, far = _tables(tmp_path)
    rows = [json.loads(line) for line in near.read_text().splitlines()]
    rows = [row | {"right": row["right"] or row["set"] == "a"} for row in rows]
    near.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = _run(near, far)
    assert found.sets["a"]["auroc"] is None and found.sets["b"]["auroc"] is not None
    assert found.auroc_within_sets == found.sets["b"]["auroc"]


def test_a_near_model_of_one_class_is_said(tmp_path: Path) -> None:
    found = _run(*_tables(tmp_path, near=0.0))
    assert found.auroc is None and "never right" in found.notes[0]
    assert found.accuracy_hybrid is not None


def test_a_far_model_that_is_worse_is_said(tmp_path: Path) -> None:
    found = _run(*_tables(tmp_path, far=0.1, near=0.9))
    assert found.apgr is None and "gains nothing" in found.notes[0]


def test_tables_of_other_questions_are_refused_and_missing_ones_left_out(tmp_path: Path) -> None:
    near, far = _tables(tmp_path)
    lines = far.read_text().splitlines(keepends=True)
    far.write_text("".join(lines[:150]))
    found = _run(near, far)
    assert found.num_questions == 150 and "50 questions" in found.notes[0]
    far.write_text('{"id": "other", "right": true}\n')
    with pytest.raises(RequestError, match="share no id"):
        _run(near, far)


def test_tables_of_another_tokenizer_are_compared_by_their_answers(tmp_path: Path) -> None:
    near, far = _tables(tmp_path)
    before = _run(near, far)
    rows = [json.loads(line) for line in far.read_text().splitlines()]
    rows = [row | {"tokens": [[-0.1, 0.2, 3.0]] * (n % 7)} for n, row in enumerate(rows)]
    far.write_text("".join(json.dumps(row) + "\n" for row in rows))
    # Kinds of tokens that were cut otherwise than those beside them.
    rows = [json.loads(line) | {"kinds": "n"} for line in near.read_text().splitlines()]
    near.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert _run(near, far) == before


def test_questions_and_models_that_a_rule_was_fitted_to_are_told(tmp_path: Path) -> None:
    near, far = _tables(tmp_path, number=20)
    assert not evaluate_answers(near, far, first_day(), named="ours").notes
    fitted_on = first_day().file.fitted_on
    rows = [json.loads(line) for line in near.read_text().splitlines()]
    rows[0] |= {"key": fitted_on.questions[0], "model": fitted_on.models[0]}
    rows[1] = {"id": rows[1]["id"], "right": False}
    near.write_text("".join(json.dumps(row) + "\n" for row in rows))
    notes = " | ".join(evaluate_answers(near, far, first_day(), named="ours").notes)
    assert "fitted to 1 of these 20 questions" in notes and fitted_on.models[0] in notes
    assert "1 questions are not known" in notes and "too good" in notes


def test_the_command_prints_one_document_or_a_table(tmp_path: Path) -> None:
    near, far = map(str, _tables(tmp_path, number=60))
    words = ["evaluate", "--answers", near, "--far", far]
    result = CliRunner().invoke(policy_app, [*words, "--json"], catch_exceptions=False)
    document = json.loads(result.stdout)
    assert set(KEYS) < document.keys() and set(document["intervals"]) == set(KEYS)
    for each in document["baselines"].values():
        assert set(KEYS) < each.keys() and each["intervals"]
    assert msgspec.convert(document, TableReplay).num_questions == 60
    told = CliRunner().invoke(policy_app, words, catch_exceptions=False).stdout
    assert "perfect_self_knowledge" in told and "60 questions" in told
    with pytest.raises(WrongUsage, match="belong together"):
        CliRunner().invoke(policy_app, words[:3], catch_exceptions=False)
