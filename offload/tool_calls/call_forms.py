"""Tool call forms: a reader for each form in which models write calls, finding a call or none.

Hermes and Qwen write JSON between tags, Mistral behind `[TOOL_CALLS]`, Llama 3 bare JSON or a list
as in Python, Functionary a name before its arguments; small models leave the tags out or put the
JSON into a fenced block. A reader begins where a call may begin, and reads no further than it must
to say that there is none: what it has read is text again.
"""

from __future__ import annotations

from typing import Any

import msgspec

from offload.tool_calls.pythonic import parse_calls
from offload.tool_calls.scanner import JsonEnd, Scanner, Step
from offload.tool_calls.toolbox import Toolbox

Calls = list[tuple[str, str]]  # of each the name, and the arguments as JSON text

_TOOL_CALLS = "[TOOL_CALLS]"
_KEYS = frozenset({"name", "arguments", "parameters", "function", "type", "id"})
OPENERS = "<[{`>"  # a call that does not begin the answer begins with one of these


def read_calls(
    source: Scanner, tools: Toolbox, *, begins_line: bool, begins_answer: bool
) -> Step[Calls | None]:
    """Return the calls that begin here, or None; a mark that is to be left out is no calls."""
    char = source.next
    if char == "<":
        return (yield from _tagged(source, tools))
    if char == "[":
        return (yield from _bracketed(source, tools, begins_line=begins_line))
    if begins_line and char == "{":
        return (yield from _objects(source, tools, bare=True))
    if begins_line and char == "`":
        return (yield from _fenced(source, tools))
    if begins_line and char == ">":
        return (yield from _addressed(source, tools))
    if begins_answer and char not in OPENERS:
        return (yield from _named(source, tools))
    return None


def whole_call(text: str, tools: Toolbox, *, bare: bool = False) -> tuple[str, str] | None:
    """Return the name and the arguments of a call written as one JSON object.

    One without tags (`bare`) may hold nothing but a call, so that the description of a tool or
    other data is not mistaken for one.
    """
    try:
        return _called(msgspec.json.decode(text.encode(), type=dict[str, msgspec.Raw]), tools, bare)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return None


def _called(fields: dict[str, msgspec.Raw], tools: Toolbox, bare: bool) -> tuple[str, str] | None:
    function = fields.pop("function", None)  # as OpenAI's own messages say it
    if function is not None and "name" not in fields:
        if bytes(function).startswith(b"{"):
            fields |= msgspec.json.decode(function, type=dict[str, msgspec.Raw])
        else:
            fields["name"] = function
    raw = fields.pop("arguments", None) or fields.pop("parameters", None)
    if "name" not in fields or (bare and (raw is None or set(fields) - _KEYS)):
        return None
    name = msgspec.json.decode(fields["name"], type=str)
    return _checked(name, "{}" if raw is None else bytes(raw).decode(), tools)


def _checked(name: str, arguments: str, tools: Toolbox) -> tuple[str, str] | None:
    """Return a call of a tool that was offered, with arguments that fit its schema."""
    try:
        value: Any = msgspec.json.decode(arguments.encode())
        if isinstance(value, str):  # some models write the JSON into a string
            arguments, value = value, msgspec.json.decode(value.encode())
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return None
    if value is None:  # some write no arguments so
        arguments, value = "{}", {}
    return (name, arguments) if tools.takes(name, value) else None


def _tagged(source: Scanner, tools: Toolbox) -> Step[Calls | None]:
    """Read `<tool_call>{...}</tool_call>`, under whatever name the model gives the tag."""
    source.take(1)
    if (yield from source.literal("|python_tag|>")):
        return (yield from _body(source, tools))
    tag = yield from source.word()
    if tag == "function" and (yield from source.literal("=")):
        name = yield from source.word()
        closed = yield from source.literal(">")
        calls = (yield from _arguments(source, name, tools)) if closed else None
    elif tag and (yield from source.literal(">")):
        calls = yield from _body(source, tools)
    else:
        return None
    if calls and (yield from source.space()) == "<":
        yield from source.literal(f"</{tag}>")
    return calls


def _bracketed(source: Scanner, tools: Toolbox, *, begins_line: bool) -> Step[Calls | None]:
    if not (yield from source.literal(_TOOL_CALLS)):
        return (yield from _list(source, tools, bare=True)) if begins_line else None
    if (yield from source.space()) in ("[", "{"):
        return (yield from _body(source, tools))
    name = yield from source.word()
    if (yield from source.literal("[CALL_ID]")):
        yield from source.word()
    yield from source.literal("[ARGS]")
    return (yield from _arguments(source, name, tools))


def _fenced(source: Scanner, tools: Toolbox) -> Step[Calls | None]:
    if not (yield from source.literal("```")):
        return None
    yield from source.word()  # the language
    calls = yield from _body(source, tools, bare=True)
    if calls and (yield from source.space()) == "`":
        yield from source.literal("```")
    return calls


def _addressed(source: Scanner, tools: Toolbox) -> Step[Calls | None]:
    """Read `>>>name` and the arguments on the next line; `>>>all` is a mark before plain text."""
    if not (yield from source.literal(">>>")):
        return None
    name = yield from source.word()
    if name == "all" and (yield from source.literal("\n")):
        return []
    return (yield from _arguments(source, name, tools))


def _named(source: Scanner, tools: Toolbox) -> Step[Calls | None]:
    """Read a name and its arguments: the mark before the name was the prompt's, or not told."""
    name = yield from source.word()
    return (yield from _arguments(source, name, tools)) if name in tools.names else None


def _arguments(source: Scanner, name: str, tools: Toolbox) -> Step[Calls | None]:
    if name not in tools.names or (yield from source.space()) != "{":
        return None
    call = _checked(name, (yield from source.value(JsonEnd())), tools)
    return None if call is None else [call]


def _body(source: Scanner, tools: Toolbox, *, bare: bool = False) -> Step[Calls | None]:
    char = yield from source.space()
    if char == "[":
        return (yield from _list(source, tools, bare=bare))
    return (yield from _objects(source, tools, bare=bare)) if char == "{" else None


def _objects(source: Scanner, tools: Toolbox, *, bare: bool) -> Step[Calls | None]:
    """Read one call after another; they are calls together, or text together."""
    calls: Calls = []
    while source.next == "{":
        call = yield from _object(source, tools, bare=bare)
        if call is None:
            return None
        calls.append(call)
        if (yield from source.space()) in (";", ","):
            source.take(1)
            yield from source.space()
    return calls


def _object(source: Scanner, tools: Toolbox, *, bare: bool) -> Step[tuple[str, str] | None]:
    source.take(1)
    head = "{"
    if bare:
        found = yield from _first_key(source, tools)
        if found is None:
            return None
        head += found
    end = JsonEnd("}")
    text = head + (yield from source.value(end))
    if end.missing == "}":  # the model forgot the last one, behind whole arguments
        return whole_call(text + "}", tools, bare=True)
    return whole_call(text, tools, bare=bare)


def _first_key(source: Scanner, tools: Toolbox) -> Step[str | None]:
    """Read an object's first key, and an offered name behind it; None as soon as it is no call."""
    yield from source.space()
    if not (yield from source.literal('"')):
        return None
    key = yield from source.word()
    if key not in _KEYS or not (yield from source.literal('"')):
        return None
    if key != "name":
        return f'"{key}"'
    for mark in (":", '"'):
        yield from source.space()
        if not (yield from source.literal(mark)):
            return None
    name = yield from source.word()
    if name not in tools.names or not (yield from source.literal('"')):
        return None
    return f'"name": "{name}"'


def _list(source: Scanner, tools: Toolbox, *, bare: bool) -> Step[Calls | None]:
    """Read a JSON list of calls, or a list of calls as Python writes them."""
    source.take(1)
    if (yield from source.space()) == "{":
        return _listed("[" + (yield from source.value(JsonEnd("]"))), tools, bare=bare)
    name = yield from source.word()
    if name not in tools.names or not (yield from source.literal("(")):
        return None
    rest = yield from source.value(JsonEnd("])", quotes="\"'"))
    written = parse_calls(f"[{name}({rest}")
    return _all([_checked(*each, tools) for each in written or ()])


def _listed(text: str, tools: Toolbox, *, bare: bool) -> Calls | None:
    try:
        rows = msgspec.json.decode(text.encode(), type=list[dict[str, msgspec.Raw]])
        return _all([_called(row, tools, bare) for row in rows])
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return None


def _all(calls: list[tuple[str, str] | None]) -> Calls | None:
    """Return the calls where each is one."""
    found = [call for call in calls if call is not None]
    return found if found and len(found) == len(calls) else None
