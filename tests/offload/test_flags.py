"""What is wrong with an answer, told without knowing the truth."""

from __future__ import annotations

import pytest

from offload.policy.flags import circle_start, flags


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Paris", ()),
        ("I don\N{RIGHT SINGLE QUOTATION MARK}t know that.", ("declines",)),
        ("I am sorry, but I cannot help with that.", ("declines",)),
        ("I know this: it is Paris.", ()),
        ("It goes on and on and on and on and on and on", ("circles",)),
        ("----------------------------------------", ()),
        ("1, 2, 3, 4, 5, 6, 7, 8", ()),
        ('{"a": 1}', ()),
        ('{"a": 1', ("broken_json",)),
        ("", ()),
    ],
)
def test_flags(text: str, found: tuple[str, ...]) -> None:
    assert flags(text) == found


def test_text_where_json_was_wanted_is_broken() -> None:
    assert flags("forty-two", wants_json=True) == ("broken_json",)
    assert flags("42", wants_json=True) == ()


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("It goes" + " on and" * 9, "It goes on and"),
        ("It goes" + " on and" * 9 + " on", "It goes on and"),
        ("la la, " * 9, "la la, "),
        ("1, 2, 3, 4, 5, 6", "1, 2, 3, 4, 5, 6"),
        ("", ""),
    ],
)
def test_a_circle_starts_where_its_piece_is_said_again(text: str, kept: str) -> None:
    assert text[: circle_start(text)] == kept
