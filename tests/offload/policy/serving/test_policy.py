"""The gate's hard rules, the monitor's arithmetic, the grading of answers."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from offload.aims import Aim
from offload.errors import RequestError, SettingsError
from offload.messages import Confidence, Delta, Privacy, Request
from offload.policy.fitting.questions import is_right, read_questions
from offload.policy.serving.answer_checks import final_answer
from offload.policy.serving.gate import Conditions, gate
from offload.policy.serving.monitor import Monitor
from offload.policy.serving.rule import ThresholdRule
from offload.reasons import REASONS, sentence, sureness


def test_local_only_wins_over_every_standing() -> None:
    request = Request(prompt="x", privacy=Privacy.LOCAL_ONLY)
    for forced in (None, "edge", "cloud"):
        for has_cloud in (True, False):
            conditions = Conditions(forced=forced, has_cloud=has_cloud)
            assert gate(request, conditions).choice == "edge"


def test_every_verdict_has_a_sentence() -> None:
    standings = [
        Conditions(offline=offline, has_cloud=has_cloud, forced=forced)
        for offline in (True, False)
        for has_cloud in (True, False)
        for forced in (None, "edge", "cloud")
    ]
    for conditions in standings:
        for privacy in Privacy:
            verdict = gate(Request(prompt="x", privacy=privacy), conditions)
            assert verdict.reason in REASONS
            assert sentence(verdict.reason) != verdict.reason


def _monitor(min_logprob: float) -> Monitor:
    rule = ThresholdRule(min_logprob=min_logprob)
    return Monitor(rule, rule.limit(Aim()))


def _tokens(*logprobs: float) -> Delta:
    return Delta(confidence=tuple(Confidence(each, 0, 0) for each in logprobs))


def test_the_monitor_trips_on_its_least_sure_token_and_stays_tripped() -> None:
    monitor = _monitor(-1.0)
    monitor.see(_tokens(-0.5))
    assert not monitor.tripped
    monitor.see(_tokens(-0.1, -2.0))
    assert monitor.tripped
    monitor.see(_tokens(-0.1))
    monitor.conclude()
    assert monitor.tripped
    assert monitor.estimate().score == -2.0 and monitor.estimate().right is None


def test_a_token_without_a_number_counts_as_unsure() -> None:
    monitor = _monitor(-0.7)
    monitor.see(_tokens(math.nan))
    assert monitor.tripped and monitor.estimate().score <= -20.0


@pytest.mark.parametrize("value", [0.1, math.nan])
def test_a_threshold_that_means_nothing_is_refused(value: float) -> None:
    with pytest.raises(SettingsError):
        ThresholdRule(min_logprob=value)


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


@pytest.mark.parametrize(
    ("probability", "words"),
    [(0.97, "sure"), (0.7, "fairly sure"), (0.59, "unsure"), (0.0, "unsure")],
)
def test_a_person_is_told_words(probability: float, words: str) -> None:
    assert sureness(probability) == words
