"""From a request to the tokens the network reads; what this model cannot take is refused."""

from __future__ import annotations

import json
from typing import Any

from backbone.errors import TemplateRefusal
from backbone.tokenizer import Tokenizer
from offload.errors import ContextLengthError, RequestError, Unsupported
from offload.messages import Message, Request, ToolCall


def encode_request(request: Request, tokenizer: Tokenizer, max_model_len: int) -> list[int]:
    """Return the prompt's tokens, and behind them those of the answer that has begun.

    Raises RequestError where the model cannot take it.
    """
    if request.prompt is not None:
        if request.tools:
            raise Unsupported("tools need messages and a chat template; a raw prompt has neither")
        tokens = tokenizer.encode(request.prompt + request.answer_prefix)
    else:
        tokens = _encode_messages(request, tokenizer)
    if not tokens:
        raise RequestError("the prompt has no tokens; write a question")
    if len(tokens) >= max_model_len:
        raise ContextLengthError(len(tokens), max_model_len)
    return tokens


def _encode_messages(request: Request, tokenizer: Tokenizer) -> list[int]:
    _require_template(request, tokenizer.chat_template)
    try:
        return tokenizer.encode_chat(
            [_turn(message) for message in request.messages],
            tools=request.tools,
            answer_prefix=request.answer_prefix,
        )
    except TemplateRefusal as error:
        raise RequestError(str(error)) from None


def _require_template(request: Request, template: str | None) -> None:
    """Refuse what a template would leave out in silence."""
    if template is None:
        raise Unsupported("this model has no chat template; ask it with a plain prompt")
    if request.tools and "tools" not in template:
        raise Unsupported("this model's chat template has no place for tools; leave them out")
    calls = any(message.tool_calls for message in request.messages)
    if calls and "tool_calls" not in template:
        raise Unsupported("this model's chat template has no place for tool_calls")


def _turn(message: Message) -> dict[str, Any]:
    """Return a turn as Hugging Face's chat templates expect it."""
    turn: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        turn["tool_calls"] = [_call(call) for call in message.tool_calls]
    if message.tool_call_id is not None:
        turn["tool_call_id"] = message.tool_call_id
    return turn


def _call(call: ToolCall) -> dict[str, Any]:
    arguments: Any
    try:
        arguments = json.loads(call.arguments)
    except ValueError:
        arguments = call.arguments  # what the model wrote is no JSON; shown as it stands
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": arguments},
    }
