"""What calibration makes of labelled questions, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from offload.aims import parse_aim
from offload.errors import RequestError, SettingsError
from offload.messages import Confidence
from offload.policy.fitting import deferral_curve
from offload.policy.fitting.calibrator import CalibrationOptions, calibrate, judged
from offload.policy.fitting.labelled_questions import LabelledRow
from offload.policy.fitting.thresholds import truth_behind
from offload.policy.serving.calibrated import CalibratedRule, load_calibrated, save_policy
from offload.policy.serving.policy_file import check_pairing, prior_path, read_policy
from tests.offload.made_labels import PAIRING, made

PLAIN = CalibrationOptions(use_probe=False)


@pytest.fixture(scope="module")
def rule() -> CalibratedRule:
    return calibrate(*made(400), PAIRING, PLAIN)


def test_probabilities_hold_on_new_questions(rule: CalibratedRule) -> None:
    questions, rows = made(600, seed=7)
    said = [judged(rule, q.question, row) for q, row in zip(questions, rows, strict=True)]
    right = np.array([row.near_right for row in rows], dtype=float)
    chances = np.array([each.right for each in said])
    assert deferral_curve.auroc(chances, right) > 0.9
    assert deferral_curve.ece(chances, right) < 0.08
    assert abs(rule.policy.found.auroc - deferral_curve.auroc(chances, right)) < 0.05


def test_a_surer_answer_is_worth_more(rule: CalibratedRule) -> None:
    questions, rows = made(2, seed=1, tells=0.0)
    sure = _with_tokens(rows[0], Confidence(-1e-4, 1e-4, 9.0))
    doubtful = _with_tokens(rows[0], Confidence(-3.0, 3.0, 0.1))
    text = questions[0].question
    assert judged(rule, text, sure).right > 0.6 > 0.4 > judged(rule, text, doubtful).right


def _with_tokens(row: LabelledRow, token: Confidence) -> LabelledRow:
    tokens = (token,) * len(row.near.tokens)
    return replace(row, near=msgspec.structs.replace(row.near, tokens=tokens))


def test_aims_become_limits_that_hold_on_the_held_questions(rule: CalibratedRule) -> None:
    held = rule.policy.held
    budget = rule.limit(parse_aim("auto-b20")).max_need
    assert np.mean([gain > budget for gain in held.gains]) == pytest.approx(0.2, abs=0.02)
    quality = rule.limit(parse_aim("auto-q95")).max_need
    went = [gain > quality for gain in held.gains]
    mixed = [f if w else n for w, n, f in zip(went, held.near_right, held.far_right, strict=True)]
    assert np.mean(mixed) >= 0.95 * np.mean(held.far_right)
    assert 0.0 < np.mean(went) < 1.0
    score = rule.limit(parse_aim("auto-w20")).min_score
    kept = [right for s, right in zip(held.scores, held.near_right, strict=True) if s >= score]
    assert len(kept) > 20 and np.mean(kept) >= 0.8


def test_a_promise_that_cannot_be_kept_is_refused(rule: CalibratedRule) -> None:
    with pytest.raises(RequestError, match="cannot be promised"):
        rule.limit(parse_aim("auto-w0"))


def test_giving_up_early_spends_no_more_than_its_error(rule: CalibratedRule) -> None:
    questions, rows = made(600, seed=9)
    limit = rule.limit(parse_aim("auto"), min_gain=0.1)
    kept = lost = saved = 0
    for question, row in zip(questions, rows, strict=True):
        expected = rule.expect(question.question)
        early = [
            at
            for at in range(1, len(row.near.tokens))
            if rule.gives_up(row.near.signals(at), expected, limit)
        ]
        stays = not limit.passed_by(judged(rule, question.question, row))
        kept, lost = kept + stays, lost + (stays and bool(early))
        saved += bool(early) and not stays
    assert lost <= 0.1 * kept, (lost, kept)  # 3% is allowed on the fitted rows
    assert saved > 10


def test_a_probe_is_used_where_states_know_more_and_else_left_out() -> None:
    blind = calibrate(*made(300, in_states=0.0), PAIRING)
    assert blind.probe is None and "left out" in blind.policy.found.probe
    seeing = calibrate(*made(300, tells=0.2, in_states=0.6), PAIRING)
    assert seeing.probe is not None and "used" in seeing.policy.found.probe
    assert seeing.policy.found.auroc > 0.9


def test_a_saved_policy_says_the_same(rule: CalibratedRule, tmp_path: Path) -> None:
    path = tmp_path / "policies" / "a.json"
    save_policy(rule, path)
    again = load_calibrated(path)
    questions, rows = made(20, seed=5)
    for question, row in zip(questions, rows, strict=True):
        ours = judged(rule, question.question, row)
        assert judged(again, question.question, row).right == pytest.approx(ours.right, abs=1e-6)


def test_a_policy_of_another_model_or_kv_type_is_refused(
    rule: CalibratedRule, tmp_path: Path
) -> None:
    check_pairing(rule.policy, tmp_path, edge_hash="0" * 32, kv_cache_dtype="auto")
    with pytest.raises(SettingsError, match="another model"):
        check_pairing(rule.policy, tmp_path, edge_hash="1" * 32, kv_cache_dtype="auto")
    with pytest.raises(SettingsError, match="KV cache"):
        check_pairing(rule.policy, tmp_path, edge_hash="0" * 32, kv_cache_dtype="f16")


def test_a_damaged_policy_is_named(rule: CalibratedRule, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    save_policy(rule, path)
    prior_path(path).write_bytes(b"no archive")
    with pytest.raises(SettingsError, match="prior"):
        load_calibrated(path)
    path.write_text('{"version": 2}')
    with pytest.raises(SettingsError, match="calibrate again"):
        read_policy(path)
    with pytest.raises(SettingsError, match="calibrate again"):
        read_policy(tmp_path / "none.json")


def test_labels_that_teach_nothing_are_refused() -> None:
    questions, rows = made(120)
    with pytest.raises(RequestError, match="too few"):
        calibrate(questions[:10], rows[:10], PAIRING, PLAIN)
    always = [replace(row, near=msgspec.structs.replace(row.near, right=True)) for row in rows]
    with pytest.raises(RequestError, match="10 right and 10 wrong"):
        calibrate(questions, always, PAIRING, PLAIN)
    with pytest.raises(RequestError, match="alpha"):
        CalibrationOptions(alpha=1.0)


def test_a_far_model_that_errs_is_not_taken_for_perfect() -> None:
    """Labels by agreement: where the far model errs a sure near answer differs, and is right."""
    questions, rows = made(900, seed=3)
    drawn = np.random.default_rng(0).random(len(rows))
    far = [bool(each < 0.92) for each in drawn]
    same = [
        LabelledRow(
            near=msgspec.structs.replace(row.near, right=row.near_right and is_right),
            far_right=True,
        )
        for row, is_right in zip(rows, far, strict=True)
    ]
    taken, told = (
        calibrate(questions, same, PAIRING, PLAIN, by_agreement=way) for way in (False, True)
    )
    assert told.policy.found.cloud_accuracy == pytest.approx(0.92, abs=0.05)
    assert taken.policy.found.cloud_accuracy == 1.0

    def went(rule: CalibratedRule) -> tuple[float, float]:
        limit = rule.limit(parse_aim("auto"))
        sent = [
            limit.passed_by(judged(rule, q.question, row))
            for q, row in zip(questions, rows, strict=True)
        ]
        right = [f if s else r.near_right for s, f, r in zip(sent, far, rows, strict=True)]
        return float(np.mean(sent)), float(np.mean(right))

    (far_before, right_before), (far_now, right_now) = went(taken), went(told)
    assert far_now < far_before - 0.05
    assert right_now >= max(right_before - 0.01, np.mean(far) * 0.985)


def test_what_two_answers_say_of_the_truth_is_bayes() -> None:
    near, far = truth_behind(np.array([1.0, 0.0, 0.0]), np.array([0.5, 0.9, 0.09]), 0.9)
    assert near[0] == far[0] == 1.0
    assert near[1] == pytest.approx(1.0) and far[1] == pytest.approx(0.0)  # surely right, differs
    # P(near right) 0.1, P(far right) 0.9: 0.1 * 0.1 against 0.9 * 0.9, of 1 - 0.09
    assert near[2] == pytest.approx(0.01 / 0.91) and far[2] == pytest.approx(0.81 / 0.91)


def test_beside_a_far_model_that_is_worse_answers_are_kept_near() -> None:
    questions, rows = made(400, seed=4)
    worse = [replace(row, far_right=place % 3 == 0) for place, row in enumerate(rows)]
    rule = calibrate(questions, worse, PAIRING, PLAIN)
    assert rule.policy.found.cloud_accuracy < rule.policy.found.edge_accuracy
    limit = rule.limit(parse_aim("auto"))
    went = [
        limit.passed_by(judged(rule, q.question, row))
        for q, row in zip(questions, worse, strict=True)
    ]
    assert sum(went) <= 0.02 * len(went)
