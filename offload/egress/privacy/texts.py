"""Texts of a request: every text that would leave with it, read or changed in one place."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import msgspec

from offload.errors import RequestError
from offload.messages import Message, Request, ToolCall

Change = Callable[[str], str]

_MAX_DEPTH = 64  # of brackets within brackets; what is deeper is read as text
_MAX_DIGITS = 1000
_MAX_SCHEMA_DEPTH = 200
_BRACKET = re.compile(r"[\[{\]}]")


class KeyedText(str):
    """Keyed text: a text and the key that it stands under, which tells what a number is."""

    key: str

    def __new__(cls, text: str, key: str) -> KeyedText:
        """Return the text, under that key."""
        made = super().__new__(cls, text)
        made.key = key
        return made


class NamedTwice(ValueError):
    """A JSON object with two values for one key: readers differ in which of them they take."""


def parsed(written: str) -> Any:
    """Return a JSON value. Raises ValueError for what is no JSON or too deep, and NamedTwice."""
    depth = 0
    for bracket in _BRACKET.finditer(written):
        depth += 1 if bracket[0] in "[{" else -1
        if depth > _MAX_DEPTH:
            raise ValueError("too deep")
    return json.loads(
        written,
        object_pairs_hook=_once,
        parse_int=_whole,
        parse_constant=_refuse,
    )


def names_twice(written: str) -> bool:
    """Whether a JSON text holds an object with two values for one key."""
    try:
        parsed(written)
    except NamedTwice:
        return True
    except ValueError:
        return False
    return False


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise NamedTwice("a key is named twice")
    return found


def _refuse(written: str) -> Any:
    raise ValueError(f"{written} is no JSON")


def _whole(written: str) -> int:
    if len(written) > _MAX_DIGITS:
        raise ValueError("too many digits")
    return int(written)


def change_texts(request: Request, change: Change) -> Request:
    """Return the request with `change` made to every text in it, in the order they were said.

    The request's own id and the model's name are no texts. Arguments of tool calls are JSON: their
    strings and numbers are changed one by one, so that they stay JSON. A text out of JSON is a
    Said.
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
        tools=tuple(_tool(each, change) for each in request.tools),
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
        tool_call_id=_name(message.tool_call_id, change) if message.tool_call_id else None,
    )


def _call(call: ToolCall, change: Change) -> ToolCall:
    return msgspec.structs.replace(
        call,
        id=_name(call.id, change),
        name=_name(call.name, change),
        arguments=_arguments(call.arguments, change),
    )


def _arguments(written: str, change: Change) -> str:
    try:
        arguments = parsed(written)
    except ValueError:  # a model wrote it: it may be broken
        return change(written)
    changed = _json(arguments, change)
    if changed == arguments:
        return written  # byte for byte as it was: a cloud's prefix cache knows it
    return json.dumps(changed, ensure_ascii=False)


def _tool(tool: dict[str, Any], change: Change) -> dict[str, Any]:
    """Return a tool with its texts changed; its name is of the few characters a name may have."""
    changed: dict[str, Any] = _json(tool, change)
    function = tool.get("function")
    if isinstance(function, dict) and isinstance(function.get("name"), str):
        changed["function"]["name"] = _name(function["name"], change)
    return changed


def _name(name: str, change: Change) -> str:
    changed = change(name)
    return name if changed == name else changed.replace("[", "").replace("]", "")


def _json(value: Any, change: Change, key: str = "", depth: int = 0) -> Any:
    if depth > _MAX_SCHEMA_DEPTH:
        raise RequestError("a tool or a schema is nested too deeply; make it flatter")
    if isinstance(value, str):
        return change(KeyedText(value, key))
    if isinstance(value, dict):
        return {
            change(str(name)): _json(each, change, str(name), depth + 1)
            for name, each in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_json(each, change, key, depth + 1) for each in value]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return value
    written = _digits(value)
    changed = change(KeyedText(written, key))
    return value if changed == written else changed


def _digits(value: float) -> str:
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e20:
        return str(int(value))
    try:
        return str(value)
    except ValueError:  # more digits than Python writes, and than anything private has
        return ""
