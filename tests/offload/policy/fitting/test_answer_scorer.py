"""Calibration may start from the rule of the first day, and does where that ranks better."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from offload.errors import SettingsError
from offload.policy.fitting.answer_scorer import fit_to_answers
from offload.policy.fitting.answer_table import AnswerRow
from offload.policy.fitting.calibrator import CalibrationOptions, calibrate, judged
from offload.policy.fitting.deferral_curve import auroc
from offload.policy.fitting.labelled_questions import LabelledRow
from offload.policy.fitting.questions import Question
from offload.policy.serving.answer_features import NAMES, measured
from offload.policy.serving.calibrated import load_calibrated, save_policy
from offload.policy.serving.first_day import first_day
from offload.policy.serving.logistic import Scorer
from offload.policy.serving.policy_file import write_policy
from offload.policy.serving.signals import Signals
from tests.offload.made_labels import PAIRING, made

FOLDS = np.arange(200) % 5
PLAIN = CalibrationOptions(use_probe=False)


def rows_told_by(name: str, *, seed: int = 0) -> list[AnswerRow]:
    """Answers that are right where one feature is 1, and differ in nothing else."""
    generator, blank = np.random.default_rng(seed), dict.fromkeys(NAMES, 0.0)
    ones = generator.random(200) < 0.5
    return [
        AnswerRow(id=str(n), right=bool(one), measures={**blank, name: float(one)})
        for n, one in enumerate(ones)
    ]


def test_what_tells_on_this_model_gains_weight() -> None:
    rows, start = rows_told_by("reached"), first_day().file.near
    scorer = fit_to_answers(rows, FOLDS, beside=np.zeros(200), start=start)
    assert scorer is not None
    at = NAMES.index("reached")
    assert scorer.weights[at] > start.weights[at] + 0.3
    features = np.array([[row.measures[name] for name in NAMES] for row in rows])
    assert auroc(scorer.many(features), np.array([float(row.right) for row in rows])) == 1.0


def test_a_better_score_is_left_in_its_place() -> None:
    rows = rows_told_by("reached")
    perfect = np.array([float(row.right) for row in rows]) + 1e-9 * np.arange(200)
    assert fit_to_answers(rows, FOLDS, beside=perfect, start=first_day().file.near) is None


def test_tables_without_measures_are_fitted_by_signals() -> None:
    rows = [msgspec.structs.replace(row, measures={}) for row in rows_told_by("reached")]
    assert fit_to_answers(rows, FOLDS, beside=np.zeros(200), start=first_day().file.near) is None


@pytest.fixture
def measured_rows() -> tuple[list[Question], list[LabelledRow]]:
    """Labels whose tokens tell nothing, and whose answers do: the right ones give a number."""
    questions, rows = made(200, tells=0.0)
    asked = [
        msgspec.structs.replace(q, question=f"{q.question} How many are {n} and 4?")
        for n, q in enumerate(questions)
    ]
    texts = [f"{n} + 4 = {n + 4 if row.near_right else -3.5}" for n, row in enumerate(rows)]
    near = [
        msgspec.structs.replace(row.near, text=text) for row, text in zip(rows, texts, strict=True)
    ]
    return asked, [
        LabelledRow(
            near=msgspec.structs.replace(answer, measures=measured(q.question, answer.signals())),
            far_right=row.far_right,
        )
        for q, row, answer in zip(asked, rows, near, strict=True)
    ]


def test_a_policy_serves_by_the_answers_features_as_it_was_fitted(
    measured_rows: tuple[list[Question], list[LabelledRow]], tmp_path: Path
) -> None:
    questions, rows = measured_rows
    fitted = calibrate(questions, rows, PAIRING, PLAIN)
    assert fitted.policy.answer_scorer is not None and fitted.policy.found.auroc > 0.9
    save_policy(fitted, tmp_path / "policy.json")
    rule = load_calibrated(tmp_path / "policy.json")
    for question, row in list(zip(questions, rows, strict=True))[:20]:
        signals = Signals()
        signals.take(row.near.tokens, row.near.text)
        expected = rule.expect(question.question)
        served = rule.judge(signals, expected, flags=row.near.flags)
        again = judged(fitted, question.question, row).score  # tables round what they keep
        assert served.score == pytest.approx(again, abs=1e-3)


def test_a_policy_of_other_features_is_refused(
    measured_rows: tuple[list[Question], list[LabelledRow]], tmp_path: Path
) -> None:
    policy = calibrate(*measured_rows, PAIRING, PLAIN).policy
    assert policy.answer_scorer is not None
    older = Scorer(names=("least",), weights=(1.0,), bias=0.0)
    older_policy = msgspec.structs.replace(policy, answer_scorer=older, has_prior=False)
    write_policy(older_policy, tmp_path / "policy.json")
    with pytest.raises(SettingsError, match="other features"):
        load_calibrated(tmp_path / "policy.json")
