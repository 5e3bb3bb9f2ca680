"""The rule of the first day: what it judges by, and that it ships whole."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import pytest

from offload.aims import Aim, parse_aim
from offload.errors import RequestError, SettingsError
from offload.messages import Confidence
from offload.policy.serving.answer_features import NAMES, PROMPT_NAMES, SIGNS, measured
from offload.policy.serving.first_day import SHIPPED, FirstDayRule, first_day, load_first_day
from offload.policy.serving.rule import Estimate
from offload.policy.serving.signals import Signals

SUM = 'Ann has 12 pens and gives 5 away. How many are left? End with "Answer: " and the number.'
SURE, UNSURE = Confidence(-0.01, 0.05, 5.0), Confidence(-1.5, 2.0, 0.1)


def _judged(question: str, text: str, tokens: list[Confidence], *flags: str) -> Estimate:
    rule, signals = first_day(), Signals()
    signals.take(tokens, text)
    return rule.judge(signals, rule.expect(question), flags=flags)


def test_doubt_in_the_answer_proper_counts() -> None:
    sure = _judged(SUM, "Answer: 7", [SURE] * 5)
    unsure = _judged(SUM, "Answer: 7", [SURE] * 3 + [UNSURE] * 2)
    assert sure.score > unsure.score


def test_an_answer_that_does_not_follow_from_its_question_is_worth_less() -> None:
    fits = _judged(SUM, "Answer: 7", [SURE] * 5)
    for text in ("Answer: 41", "Answer: -7", "Answer: 12"):
        assert fits.score > _judged(SUM, text, [SURE] * 5).score, text
    shown = _judged(SUM, "12 - 5 = 7\nAnswer: 7", [SURE] * 12)
    assert shown.score > _judged(SUM, "12 - 5 = 8\nAnswer: 8", [SURE] * 12).score


def test_a_flagged_answer_goes_far() -> None:
    limit = first_day().limit(Aim())
    assert limit.passed_by(_judged("Tell me a story.", "on and on", [SURE] * 9, "circles"))


def test_probabilities_are_such_and_the_gain_is_theirs() -> None:
    said = _judged(SUM, "Answer: 7", [SURE] * 5)
    assert said.right is not None and said.far is not None
    assert 0.0 < said.right < 1.0 and 0.0 < said.far < 1.0
    assert said.gain == pytest.approx(said.far - said.right)
    expected = first_day().expect(SUM)
    assert expected.near is not None and expected.gain is not None


@pytest.mark.parametrize("text", ["", "Answer: ", "a" * 9000])
@pytest.mark.parametrize("token", [Confidence(math.nan, math.nan, math.nan), SURE])
def test_any_answer_has_a_probability(text: str, token: Confidence) -> None:
    for tokens in ([], [token], [token] * 400):
        said = _judged("", text, tokens)
        assert said.right is not None and 0.0 <= said.right <= 1.0


def test_a_table_without_text_is_judged_as_its_answers_were() -> None:
    tokens, text = [SURE] * 4 + [UNSURE], "12 + 5 = 17\nAnswer: 17"
    answer = Signals()
    answer.take(tokens, text)
    kept = first_day().judge_measures(measured(SUM, answer), ())
    assert kept.score == pytest.approx(_judged(SUM, text, tokens).score, abs=1e-3)


def test_promises_need_a_calibrated_policy() -> None:
    for name in ("auto-q95", "auto-w5"):
        with pytest.raises(RequestError, match="calibrate"):
            first_day().limit(parse_aim(name))
    assert first_day().limit(Aim(), min_gain=0.5, cost=0.1).max_need == pytest.approx(0.6)


def test_no_weight_turns_against_its_sign() -> None:
    near = first_day().file.near
    for name, weight in zip(near.names, near.weights, strict=True):
        assert SIGNS[name] * weight >= 0.0, name


def test_what_ships_says_whom_it_was_fitted_to() -> None:
    fitted_on = first_day().file.fitted_on
    assert fitted_on.models and fitted_on.sets and fitted_on.questions
    needs = first_day().seen_needs()
    assert needs == sorted(needs) and len(needs) > 10


def test_damaged_weights_are_named(tmp_path: Path) -> None:
    path = tmp_path / "first_day.json"
    path.write_bytes(SHIPPED.read_bytes()[:200])
    with pytest.raises(SettingsError, match="cannot be read"):
        load_first_day(path)
    file = first_day().file
    assert file.near.names == NAMES and file.far_by_prompt.names == PROMPT_NAMES
    for changed in ({"version": 99}, {"near": file.near_by_prompt}):
        path.write_bytes(msgspec.json.encode(msgspec.structs.replace(file, **changed)))  # type: ignore[arg-type]
        with pytest.raises(SettingsError, match="another version"):
            load_first_day(path)
    path.write_bytes(SHIPPED.read_bytes())
    assert load_first_day(path) == FirstDayRule(file)
