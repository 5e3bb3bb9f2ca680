"""What of an unfinished text may leave, since no value has begun at its end."""

from __future__ import annotations

import pytest

from offload.egress.privacy.closed_text import closed_part


@pytest.mark.parametrize(
    ("text", "closed"),
    [
        ("The sum is", "The sum is"),
        ("Step 2: 5 + 3 =", "Step 2: 5 + 3 ="),
        ("He has 12", "He has 12"),
        ("Your card is 4111", "Your card is "),
        ("Your card is 4111 1111 1111", "Your card is "),
        ("Your card is 4111 1111 1111 1111 and", "Your card is 4111 1111 1111 1111 and"),
        ("Pay to DE89 3704 0044", "Pay to "),
        ("Pay to GB29 NWBK 6016", "Pay to "),
        ("Call +49 151 2345", "Call "),
        ("The key:\n-----BEGIN PRIVATE KEY-----\nMIIEvQ", "The key:\n"),
        ("", ""),
    ],
)
def test_a_number_that_may_go_on_is_left_out(text: str, closed: str) -> None:
    assert closed_part(text) == closed


@pytest.mark.parametrize(
    ("text", "closed"),
    [
        ("I told Mar", "I told "),
        ("I told Maria Lo", "I told "),
        ("I told Maria Lopez", "I told Maria Lopez"),
        ("I told Ma", "I told Ma"),
        ("write to m.lopez@ex", "write to "),
        ("the market", "the market"),
    ],
)
def test_a_known_value_is_known_by_its_beginning(text: str, closed: str) -> None:
    assert closed_part(text, ["Maria Lopez", "m.lopez@example.com"]) == closed


def test_a_long_text_is_searched_at_its_end_alone() -> None:
    text = "word 12345 " * 20_000
    assert closed_part(text + "x", ["zzz"] * 500).endswith("x")
