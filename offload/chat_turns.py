"""Chat turns: a conversation as Hugging Face's chat templates expect it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from offload.errors import RequestError, Unsupported
from offload.messages import Message, Request, ToolCall

_NAMES = {"system": "", "user": "User: ", "assistant": "Assistant: ", "tool": "Tool: "}
PLAIN_TOLD = (
    "nearfar: %s has no chat template, so conversations are written out for it as plain text "
    "(User: ..., Assistant: ...); a model that was tuned for chat answers better"
)


def turns(request: Request) -> list[dict[str, Any]]:
    """Return the messages of a request; the arguments of tool calls become objects again.

    Raises Unsupported for pictures, which no template here has a place for.
    """
    require_no_pictures(request)
    return [_turn(message) for message in request.messages]


def require_no_pictures(request: Request) -> None:
    """Raise Unsupported for a request that a model without eyes would answer as if it saw."""
    if any(message.pictures for message in request.messages):
        raise Unsupported("this model sees no pictures; leave them out")


def plain_form(turns: Sequence[Mapping[str, Any]]) -> str:
    """Return a conversation as plain text, for models without a chat template.

    A question alone is continued as it stands, which is what such models were trained for. What
    comes before it is written out with who said it, so that nothing is left out.
    """
    if len(turns) == 1 and turns[0]["role"] == "user":
        return str(turns[0]["content"])
    said = [_NAMES[turn["role"]] + str(turn["content"]).strip() for turn in turns]
    return "\n\n".join([*said, _NAMES["assistant"].rstrip()])


def plain_stops(request: Request) -> tuple[str, ...]:
    """Return what ends an answer behind plain_form(): the model goes on to write the other part."""
    is_form = len(request.messages) > 1 or any(m.role != "user" for m in request.messages)
    return (f"\n{_NAMES['user'].rstrip()}",) if is_form else ()


def require_place(request: Request, template: str) -> None:
    """Raise Unsupported for what a template would leave out in silence: tools and their calls."""
    if request.tools and "tools" not in template:
        raise Unsupported("this model's chat template has no place for tools; leave them out")
    calls = any(message.tool_calls for message in request.messages)
    if calls and "tool_calls" not in template:
        raise Unsupported(
            "this model's chat template has no place for tool_calls; tell their results as text"
        )


def require_known(request: Request, vocab_size: int) -> None:
    """Raise RequestError for a prompt of token ids that are not this model's."""
    highest = max(request.prompt_token_ids, default=0)
    if highest >= vocab_size:
        raise RequestError(
            f"the prompt names the token {highest}; this model's are 0 to {vocab_size - 1}"
        )
    if request.prompt_token_ids and request.tools:
        raise Unsupported("tools need messages and a chat template; token ids have neither")
    if request.prompt_token_ids and request.answer_prefix:
        raise Unsupported("how the answer begins is text; put its ids behind the prompt's")


def _turn(message: Message) -> dict[str, Any]:
    turn: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        turn["tool_calls"] = [_call(call) for call in message.tool_calls]
    if message.tool_call_id is not None:
        turn["tool_call_id"] = message.tool_call_id
    if message.reasoning:
        turn["reasoning_content"] = message.reasoning
    return turn


def _call(call: ToolCall) -> dict[str, Any]:
    arguments: Any
    try:
        arguments = json.loads(call.arguments)
    except (ValueError, RecursionError):
        arguments = call.arguments  # a model wrote what is no JSON; it is shown as it stands
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": arguments},
    }
