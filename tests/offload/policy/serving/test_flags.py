"""What is wrong with an answer, told without knowing the truth."""

from __future__ import annotations

import pytest

from offload.policy.serving.flags import circle_start, flags


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


@pytest.mark.parametrize(
    ("text", "ended", "found"),
    [
        ("First you open the lid and then you take the", "stop", ("breaks_off",)),
        ("First you open the lid, then the jar, then,", "stop", ("breaks_off",)),
        ("First you open the lid and then you take the", "length", ()),
        ("First you open the lid and then you take it", "stop", ()),
        ("What for?", "stop", ()),
    ],
)
def test_only_an_answer_that_ended_of_itself_breaks_off(
    text: str, ended: str, found: tuple[str, ...]
) -> None:
    assert flags(text, ended=ended) == found


ENGLISH = "What is the difference between a list and a tuple, and how can I use them?"
GERMAN = "Der Unterschied ist, dass die Liste nicht fest ist und das Tupel auch."
CHINESE = "\u5217\u8868\u548c\u5143\u7ec4\u7684\u533a\u522b\u662f\u4ec0\u4e48"


@pytest.mark.parametrize(
    ("question", "text", "other"),
    [
        (ENGLISH, GERMAN, True),
        (ENGLISH, CHINESE + CHINESE, True),
        (ENGLISH, "The list can be changed, and the tuple is fixed.", False),
        (ENGLISH, "x = [1, 2]; y = (1, 2)", False),
        (ENGLISH + " Say it in German.", GERMAN, False),
        ("Translate: " + ENGLISH, GERMAN, False),
        ("Was ist das?", "That is the house of my brother, and it is red.", False),
    ],
)
def test_an_answer_in_another_language_is_seen(question: str, text: str, other: bool) -> None:
    assert ("other_language" in flags(text, question=question)) is other


def test_an_apology_that_was_asked_for_is_no_refusal() -> None:
    assert flags("Sorry, I cannot come.") == ("declines",)
    assert flags("Sorry, I cannot come.", question="Draft a reply: Sorry, I cannot come.") == ()


@pytest.mark.parametrize("rounds", [3, 5])
def test_a_long_piece_said_three_times_is_a_circle(rounds: int) -> None:
    piece = "".join(f"<b><i>{letter}</i></b>" for letter in "antagonistically")
    text = "It begins so: " + piece * rounds
    assert flags(text) == ("circles",) and text[: circle_start(text)] == "It begins so: " + piece
    assert flags("It begins so: " + piece * 2) == ()
