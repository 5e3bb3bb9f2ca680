"""Persons and places on no list: found by the recogniser, replaced, and put back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offload.egress.privacy.detect import detect
from offload.egress.privacy.entities import WEIGHTS, find_entities
from offload.egress.privacy.findings import Rules
from offload.egress.privacy.placeholder_restoring import Restorer
from offload.egress.privacy.redaction import clear
from offload.errors import SettingsError
from offload.messages import Message, Request

RULES = Rules(entity="redact")
MEASURED = Path(__file__).parents[4] / "benchmarks" / "entities.json"


def found(text: str) -> list[tuple[str, str]]:
    return [(each.kind, text[each.start : each.end]) for each in detect(text, RULES)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Anna Smith lives in Berlin.", [("person", "Anna Smith"), ("place", "Berlin")]),
        ("My name is José García.", [("person", "José García")]),
        ("We fly to Rio de Janeiro on Friday.", [("place", "Rio de Janeiro")]),
        ("Kind regards, Peter", [("person", "Peter")]),
        ("Please send the report by Friday.", []),
        ("what is 17 + 25?", []),
        ("", []),
    ],
)
def test_names_and_places_are_found_whole(text: str, expected: list[tuple[str, str]]) -> None:
    assert found(text) == expected


def test_they_leave_as_placeholders_and_come_back() -> None:
    asked = "Write to Anna Smith in Berlin. Anna Smith likes reading."
    cleared = clear(Request(messages=(Message(role="user", content=asked),)), RULES)
    (sent,) = (message.content for message in cleared.request.messages)
    assert sent == "Write to [PERSON_1] in [PLACE_1]. [PERSON_1] likes reading."
    restorer = Restorer(cleared.originals)
    assert (
        restorer.feed("Dear [PERSON_1] of [PLACE_1]") + restorer.end()
        == "Dear Anna Smith of Berlin"
    )


def test_a_place_that_is_a_word_is_not_replaced_where_it_is_one() -> None:
    asked = "She lives in Reading. I like reading."
    cleared = clear(Request(prompt=asked), RULES)
    assert cleared.request.prompt is not None and cleared.request.prompt.endswith("like reading.")


def test_unless_it_is_asked_for_nothing_is_looked_for() -> None:
    assert detect("Anna Smith lives in Berlin.", Rules()) == []
    with pytest.raises(SettingsError, match=r"privacy\.entity"):
        Rules(entity="maybe")  # type: ignore[arg-type]


def test_a_listed_name_stays_a_name_and_an_address_whole() -> None:
    rules = Rules(entity="redact", names=("Anna Smith",))
    kinds = {each.kind for each in detect("Anna Smith, Hauptstraße 12, 10115 Berlin", rules)}
    assert kinds == {"name", "address"}


@given(st.text())
def test_whatever_stands_in_a_text_spans_lie_in_it_apart_and_in_order(text: str) -> None:
    at = 0
    for _, start, end in find_entities(text):
        assert at <= start < end <= len(text)
        at = end


def test_what_was_measured_is_what_is_shipped() -> None:
    told = json.loads(MEASURED.read_text())
    both = next(each for each in told["sets"] if each["set"] == "both")
    assert both["recall"]["share"] > 0.8 and both["precision"]["share"] > 0.85
    assert told["weights_mb"] == round(WEIGHTS.stat().st_size / 1e6, 2) < 2
