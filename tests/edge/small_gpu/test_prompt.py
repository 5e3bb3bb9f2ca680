"""What the torch runtime hands to a chat template: the same turns as every other runtime."""

from __future__ import annotations

from typing import Any, cast

import pytest

from backbone.tokenizer import Tokenizer
from engine.torch.prompt import prompt_tokens
from offload.errors import Unsupported
from offload.messages import Message, Request, ToolCall

CALL = ToolCall(id="c1", name="weather", arguments='{"city": "Oslo"}')
TURNS = (
    Message(role="user", content="How is it in Oslo?"),
    Message(role="assistant", content="", tool_calls=(CALL,)),
    Message(role="tool", content="rain", tool_call_id="c1"),
)


class Recording:
    """A tokenizer that keeps what it is given."""

    def __init__(self, template: str) -> None:
        self._template = template
        self.turns: list[dict[str, Any]] = []

    def template_for(self, tools: object) -> str:
        return self._template

    def encode_chat(self, turns: list[dict[str, Any]], **_: Any) -> list[int]:
        self.turns = turns
        return [1]


def test_arguments_reach_the_template_as_an_object() -> None:
    """Templates write them with `tojson`, which would quote a text a second time."""
    tokenizer = Recording("{{ messages }} {{ tools }} tool_calls")
    prompt_tokens(cast("Tokenizer", tokenizer), Request(messages=TURNS))
    (call,) = tokenizer.turns[1]["tool_calls"]
    assert call["function"] == {"name": "weather", "arguments": {"city": "Oslo"}}
    assert tokenizer.turns[2]["tool_call_id"] == "c1"


def test_calls_that_a_template_would_drop_are_refused() -> None:
    tokenizer = Recording("{{ messages }}")
    with pytest.raises(Unsupported, match="tool_calls"):
        prompt_tokens(cast("Tokenizer", tokenizer), Request(messages=TURNS))
