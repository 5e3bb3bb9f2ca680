"""Where the near model is helped, how far, and for how long a far model is asked to."""

from __future__ import annotations

import math

import pytest

from offload.policy.serving.lend import FEWEST, SENTENCE, LendRule, LendWatch, visit_len


@pytest.mark.parametrize(
    ("before", "piece", "probability", "doubted"),
    [
        ("", "To", 0.4, True),  # where an answer begins
        ("Step one.\n", "Then", 0.4, True),
        ("The sum is", " 12", 0.5, True),
        ("The sum is 1", "2", 0.5, True),
        ("The sum is", " twelve", 0.1, False),  # its synonyms share the rest
        ("The sum is", " 12", 0.9, False),
    ],
)
def test_places_count_whose_alternatives_differ_in_meaning(
    before: str, piece: str, probability: float, doubted: bool
) -> None:
    assert LendRule(begin=0.5).doubts(before, piece, math.log(probability)) == doubted


def test_what_was_lent_is_paid_for_before_more_is() -> None:
    rule = LendRule(share=0.1)
    assert rule.affords(0, 0) and not rule.affords(16, 100) and rule.affords(16, 160)


@pytest.mark.parametrize(
    ("round_trip_s", "token_s", "tokens"),
    [
        (0.002, 0.01, FEWEST),
        (0.1, 0.01, 10),
        (0.15, 0.005, SENTENCE),
        (None, 0.01, SENTENCE),
        (0.1, None, 5),
    ],
)
def test_a_slow_link_lends_a_sentence_and_a_quick_one_a_number(
    round_trip_s: float | None, token_s: float | None, tokens: int
) -> None:
    assert visit_len(round_trip_s, token_s) == tokens


def test_only_a_row_of_useless_visits_ends_them() -> None:
    watch = LendWatch()
    for _ in range(3):
        for useful in (False, False, False, False, True):
            watch.note(useful=useful)
    assert watch.is_useful
    for _ in range(5):
        watch.note(useful=False)
    assert not watch.is_useful
