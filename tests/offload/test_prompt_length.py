"""What cannot fit a context is refused by its characters, and what may fit never is."""

from __future__ import annotations

import pytest

from offload.errors import ContextLengthError
from offload.messages import Message, Request, ToolCall
from offload.prompt_length import MAX_CHARS_PER_TOKEN, MAX_CONVERSATION_CHARS, require_short

LIMIT = 512 * MAX_CHARS_PER_TOKEN
LONG = "x" * (LIMIT + 1)


def turn(content: str, role: str = "user") -> Message:
    return Message(role=role, content=content)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "request_",
    [
        Request(prompt=LONG),
        Request(messages=(turn(LONG),)),
        Request(messages=(turn(LONG, "system"), turn("hi"))),
        Request(messages=(turn("x" * 8),) * (LIMIT // 8 + 1)),
        Request(
            messages=(
                turn("hi"),
                Message(
                    role="assistant",
                    content="",
                    tool_calls=(ToolCall(id="1", name="f", arguments=LONG),),
                ),
                turn("go on"),
            )
        ),
    ],
)
def test_a_text_no_context_of_this_size_holds_is_refused(request_: Request) -> None:
    with pytest.raises(ContextLengthError, match="characters"):
        require_short(request_, 512)


def test_what_may_fit_is_let_pass() -> None:
    require_short(Request(prompt="x" * LIMIT), 512)
    require_short(Request(prompt_token_ids=tuple(range(10_000))), 512)  # counted exactly elsewhere


def test_a_long_past_is_no_hindrance_where_older_turns_are_forgotten() -> None:
    past = Request(messages=(turn("be short", "system"), turn(LONG), turn("and now?")))
    require_short(past, 512, forgets=True)
    with pytest.raises(ContextLengthError):
        require_short(past, 512)
    endless = Request(messages=(turn("x" * MAX_CONVERSATION_CHARS), turn("and now?")))
    with pytest.raises(ContextLengthError):
        require_short(endless, 512, forgets=True)
