"""Every text in a request that would leave with it, read or changed in one place."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec

from offload.messages import Message, Request, ToolCall

Change = Callable[[str], str]


def change_texts(request: Request, change: Change) -> Request:
    """Return the request with `change` made to every text in it, in the order they were said.

    Ids, numbers and the model's name are no texts. Arguments of tool calls are JSON: their strings
    are changed one by one, so that they stay JSON.
    """
    messages = tuple(_message(each, change) for each in request.messages)
    prompt = None if request.prompt is None else change(request.prompt)
    sampling = msgspec.structs.replace(
        request.sampling,
        stop=tuple(change(each) for each in request.sampling.stop),
        json_schema=_json(request.sampling.json_schema, change),
    )
    return msgspec.structs.replace(
        request,
        messages=messages,
        prompt=prompt,
        sampling=sampling,
        tools=tuple(_json(each, change) for each in request.tools),
        answer_prefix=change(request.answer_prefix),
        suffix=change(request.suffix),
        template_options=_json(request.template_options, change),
    )


def texts_of(request: Request) -> list[str]:
    """Return every text in a request, as change_texts visits them."""
    found: list[str] = []

    def note(text: str) -> str:
        found.append(text)
        return text

    change_texts(request, note)
    return found


def _message(message: Message, change: Change) -> Message:
    return msgspec.structs.replace(
        message,
        content=change(message.content),
        reasoning=change(message.reasoning),
        tool_calls=tuple(_call(each, change) for each in message.tool_calls),
    )


def _call(call: ToolCall, change: Change) -> ToolCall:
    try:
        arguments = json.loads(call.arguments)
    except ValueError:  # a model wrote it: it may be broken
        return msgspec.structs.replace(call, arguments=change(call.arguments))
    changed = _json(arguments, change)
    if changed == arguments:
        return call  # byte for byte as it was: a cloud's prefix cache knows it
    return msgspec.structs.replace(call, arguments=json.dumps(changed, ensure_ascii=False))


def _json(value: Any, change: Change) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {change(str(name)): _json(each, change) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json(each, change) for each in value]
    return value
