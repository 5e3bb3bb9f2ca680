"""What a person is shown before a text leaves is what then leaves, to the letter."""

from __future__ import annotations

import pytest

from offload.egress.door import Door, EgressEngine
from offload.egress.permission import Allowed
from offload.egress.preview import preview
from offload.egress.privacy.findings import KINDS, Rules
from offload.kind_words import found_in_words, in_words
from offload.messages import Message, Request
from tests.offload.links import answer
from tests.offload.scripted import ScriptedEngine

TALK = Request(
    messages=(
        Message(role="system", content="Answer bob@example.com kindly."),
        Message(role="user", content="my secret", stays=True),
        Message(role="assistant", content="noted", stays=True),
        Message(role="user", content="Who is bob@example.com?"),
        Message(role="assistant", reasoning="bob@example.com wrote", content="Bob."),
        Message(role="user", content="Call +49 30 901820 for amy@example.com at 10.0.0.7."),
    ),
)


async def test_what_is_shown_is_what_leaves() -> None:
    shown = preview(TALK, Rules(), endpoint="tcp://cloud:1", model="big")
    cloud = ScriptedEngine()
    await answer(EgressEngine(cloud, door=Door(allowed=Allowed)), TALK)
    (left,) = cloud.requests
    said = ["\n\n".join(text for text in (m.reasoning, m.content) if text) for m in left.messages]
    assert [turn.text for turn in shown.turns] == said
    assert [turn.role for turn in shown.turns] == [m.role for m in left.messages]
    assert shown.left_out == 2 and "secret" not in "".join(said)
    assert shown.num_bytes == sum(len(text.encode()) for text in said)
    assert (shown.endpoint, shown.model) == ("tcp://cloud:1", "big")


def test_each_value_is_marked_and_counted() -> None:
    shown = preview(TALK, Rules(ip="ask"))
    assert shown.replaced == {
        "[EMAIL_1]": "bob@example.com",
        "[EMAIL_2]": "amy@example.com",
        "[PHONE_1]": "+49 30 901820",
    }
    assert shown.found == {"email redact": 4, "phone redact": 1, "ip ask": 1}
    marked = [piece.text for turn in shown.turns for piece in turn.pieces if piece.original]
    assert marked == ["[EMAIL_1]"] * 3 + ["[PHONE_1]", "[EMAIL_2]"]
    assert not shown.blocked


@pytest.mark.parametrize("text", ["plain words", "a literal [EMAIL_1] of my own"])
def test_a_text_without_findings_is_one_piece(text: str) -> None:
    (turn,) = preview(Request(prompt=text), Rules()).turns
    assert [piece.text for piece in turn.pieces] == [text] and turn.text == text


def test_every_kind_has_its_words() -> None:
    assert all(in_words(kind, 2) != f"2 {kind}" for kind in KINDS)
    assert found_in_words({"email redact": 1, "name ask": 2}) == (
        "1 e-mail address replaced, 2 names not replaced"
    )


def test_a_text_that_a_rule_keeps_is_said_to_stay() -> None:
    assert preview(Request(prompt="mail bob@example.com"), Rules(email="block")).blocked
