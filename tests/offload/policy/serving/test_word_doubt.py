"""Doubt by word: what an answer says anew counts, not what it copies or how it is put."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from offload.messages import Confidence
from offload.policy.serving.answer_features import NAMES, answer_features
from offload.policy.serving.consistency import QuestionForm
from offload.policy.serving.signals import Signals
from offload.policy.serving.word_doubt import WordDoubt, word_doubt


def doubted(question: str, *pieces: tuple[str, float]) -> WordDoubt:
    """Read an answer of these pieces, one a token, each with its log-probability."""
    text, ends = "", list[int]()
    for piece, _ in pieces:
        text += piece
        ends.append(len(text))
    return word_doubt(QuestionForm.read(question), text, [each for _, each in pieces], ends)


def test_only_what_is_said_anew_counts() -> None:
    found = doubted(
        "What is the capital of Kazakhstan?",
        ("The", -3.0),
        (" capital", -2.0),
        (" of", -0.1),
        (" Kazakhstan", -0.1),
        (" is", -1.0),
        (" T", -0.5),
        ("ashkent", -0.25),
        (".", -2.5),
    )
    assert found.first == found.least == found.mean == pytest.approx(-0.75)


def test_an_answer_of_nothing_new_is_as_doubtful_as_its_least_token() -> None:
    found = doubted("Is it hot or cold?", ("It", -0.1), (" is", -0.2), (" cold", -1.5))
    assert found.first == found.least == -1.5


@pytest.mark.parametrize(
    ("question", "pieces", "first", "whole"),
    [
        (
            "How many are 40 and 2? End with the number.",
            [("40", -0.1), (" Answer:", -0.3), (" about", -2.0), (" 4", -0.5), ("2", -0.25)],
            -0.5,
            -0.75,
        ),
        (
            "Which?\n(A) red\n(B) blue\nReply with the letter.",
            [("Answer:", -0.2), (" (", -0.4), ("B", -0.75), (")", -0.1), (" blue", -0.3)],
            -0.75,
            -0.75,
        ),
        ("Valid or not?", [("Answer:", -0.2), (" in", -0.5), ("valid", -0.25)], -0.5, -0.75),
        ("Valid or not?", [("...", -0.5)], -0.5, -0.5),
    ],
)
def test_the_answer_proper_is_its_number_its_option_or_its_words(
    question: str, pieces: Sequence[tuple[str, float]], first: float, whole: float
) -> None:
    found = doubted(question, *pieces)
    assert (found.answer, found.answer_sum) == (first, whole)


def test_another_tokenizer_says_the_same_of_the_same_doubt() -> None:
    question = "What is the capital of Kazakhstan?"
    one = doubted(question, ("It is", -0.2), (" Tashkent", -0.75))
    many = doubted(question, ("It", -0.1), (" is ", -0.1), ("Tash", -0.5), ("kent", -0.25))
    assert one.first == many.first == -0.75


def test_tokens_that_came_together_share_their_text() -> None:
    answer = Signals()
    answer.take((Confidence(-0.1, 0.1, 5.0),) * 2, "It is ")
    answer.take((Confidence(-0.5, 0.1, 5.0), Confidence(-0.25, 0.1, 5.0)), "Tashkent")
    assert answer.ends == [3, 6, 10, 14] and answer.text == "It is Tashkent"


@pytest.mark.parametrize("text", ["", " \n", "!?", "\u0301\u200b", "x" * 5000])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_whatever_an_answer_is_its_features_are_numbers(text: str, count: int) -> None:
    answer = Signals()
    answer.take((Confidence(float("nan"), float("inf"), float("nan")),) * count, text)
    found = answer_features(QuestionForm.read("What?\n(A) x"), answer)
    assert len(found) == len(NAMES) and all(abs(each) < 1e3 for each in found)
