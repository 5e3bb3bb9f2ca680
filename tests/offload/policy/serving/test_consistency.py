"""Whether an answer hangs together with its question, told without the truth."""

from __future__ import annotations

import math

import pytest

from offload.policy.fitting.answer_table import token_kind
from offload.policy.serving.consistency import NAMES, QuestionForm, consistency

SUMS = 'Ann has 12 pens and gives 5 away. How many are left? End with "Answer: " and the number.'
CHOICE = "Which is it?\nOptions:\n(A) the first one\n(B) the last one\nReply with a letter."
LISTED = "Is it so?\nOptions:\n- Yes\n- No\nReply with one word."


def _checks(question: str, text: str) -> dict[str, float]:
    return dict(zip(NAMES, consistency(QuestionForm.read(question), text), strict=True))


@pytest.mark.parametrize(
    ("text", "reached"),
    [("Answer: 7", 1.0), ("Answer: 17", 1.0), ("Answer: 60", 1.0), ("Answer: 41", 0.0)],
)
def test_a_number_is_reached_from_two_of_the_question(text: str, reached: float) -> None:
    assert _checks(SUMS, text)["reached"] == reached


def test_three_numbers_reach_it_by_sums_only() -> None:
    question = "A has 2, B has 30 and C has 400. How many in all?"
    assert _checks(question, "432")["reached"] == 0.5
    assert _checks(question, "433")["reached"] == 0.0


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("12 - 5 = 7\nAnswer: 7", "sums_wrong", 0.0),
        ("12 - 5 = 8\nAnswer: 8", "sums_wrong", 1.0),
        ("12 - 5 = 7\nAnswer: 7", "follows_working", 1.0),
        ("12 - 5 = 7\nAnswer: 9", "follows_working", 0.0),
        ("12 - 5 = 7\nAnswer: 7", "numbers_used", 1.0),
        ("Answer: 12", "repeated", 1.0),
        ("Answer: -7", "negative", 1.0),
        ("Answer: 2.4", "fraction", 1.0),
        ("7", "form_missed", 1.0),
        ("Answer: 7", "form_missed", 0.0),
        ("Answer: 1200000", "too_large", math.log1p(1e5)),
    ],
)
def test_what_is_amiss_with_a_number_is_named(text: str, name: str, value: float) -> None:
    assert _checks(SUMS, text)[name] == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "amiss"),
    [
        ("Answer: (A)", set()),
        ("Answer: B, the last one", set()),
        ("Answer: (C)", {"option_unknown"}),
        ("Answer: neither", {"option_missed"}),
        ("Answer: (A) the last one", {"option_misquoted"}),
    ],
)
def test_an_option_exists_and_is_quoted_as_it_is(text: str, amiss: set[str]) -> None:
    checks = _checks(CHOICE, text)
    names = ("option_unknown", "option_missed", "option_misquoted")
    assert {name for name in names if checks[name]} == amiss


def test_a_listed_word_is_what_the_answer_begins_with() -> None:
    assert _checks(LISTED, "Yes, it is.")["listed_missed"] == 0.0
    assert _checks(LISTED, "It depends.")["listed_missed"] == 1.0


@pytest.mark.parametrize("text", ["", " ", "Answer:", "9" * 400, "(" * 5000, "1 = 2 = " * 900])
@pytest.mark.parametrize("question", ["", SUMS, CHOICE, LISTED, "7 " * 4000])
def test_every_check_of_any_text_is_a_number(question: str, text: str) -> None:
    assert all(map(math.isfinite, consistency(QuestionForm.read(question), text)))


@pytest.mark.parametrize(
    ("text", "kind"),
    [(" 42", "n"), ("B", "l"), (" Paris", "N"), ("the", "w"), ("()", "c"), (".", "m"), ("\n", "s")],
)
def test_a_token_is_of_one_kind(text: str, kind: str) -> None:
    assert token_kind(text) == kind
