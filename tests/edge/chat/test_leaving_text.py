"""The text that would leave, as a person at a terminal reads it."""

from __future__ import annotations

from edge.chat.leaving_text import leaving_lines
from offload.egress.preview import preview
from offload.egress.privacy.findings import Rules
from offload.messages import Message, Request


def lines_of(request: Request, *, whole: bool = False) -> list[str]:
    shown = preview(request, Rules(ip="ask"), endpoint="tcp://cloud:1", model="big")
    return ["".join(text for text, _ in line) for line in leaving_lines(shown, whole=whole)]


def test_it_says_what_goes_to_whom_what_stands_for_what_and_what_stays() -> None:
    talk = Request(
        messages=(
            Message(role="user", content="a secret", stays=True),
            Message(role="user", content="Mail bob@example.com\nfrom 10.0.0.7"),
        )
    )
    assert lines_of(talk) == [
        "to big at tcp://cloud:1 would go, 28 bytes in all:",
        "  | Mail [EMAIL_1]",
        "  | from 10.0.0.7",
        "1 e-mail address replaced, 1 IP address not replaced",
        "  [EMAIL_1] stands for bob@example.com",
        "1 turn of this conversation stays here",
    ]


def test_what_was_replaced_is_marked() -> None:
    shown = preview(Request(prompt="mail bob@example.com now"), Rules())
    marked = [text for line in leaving_lines(shown) for text, style in line if style == "kept"]
    assert marked == ["[EMAIL_1]", "[EMAIL_1]"]


def test_a_long_conversation_is_shown_whole_only_where_it_is_asked_for() -> None:
    asked = "\n".join(f"line {number}" for number in range(40))
    talk = Request(
        messages=(
            Message(role="user", content="before"),
            Message(role="assistant", content="said"),
            Message(role="user", content=asked),
        )
    )
    short, whole = lines_of(talk), lines_of(talk, whole=True)
    assert "with 2 earlier turns (10 bytes)" in short and "... and 24 more lines" in short
    assert "  | line 39" not in short and "  | before" not in short
    assert "  | line 39" in whole and "you:" in whole and "  | before" in whole
