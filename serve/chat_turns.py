"""Chat turns: a chat body's messages, the schema of its answer, and an answer begun already.

The words are vLLM's: `continue_final_message`, and `add_generation_prompt`, its opposite.
"""

from __future__ import annotations

from typing import Any

from offload.errors import RequestError
from offload.messages import MAX_PICTURES, Message, Picture, Role, ToolCall
from offload.pictures import picture_at
from serve.http_errors import BadRequest
from serve.request_schema import ChatBody, ContentPart, ResponseFormat, TurnBody

MAX_SCHEMA_DEPTH = 32  # what the link takes
_SET = frozenset({"messages", "tools", "documents", "add_generation_prompt"})


def read_turn(turn: TurnBody, at: str) -> Message:
    """Return one message; `at` is its place in the body. Raises BadRequest."""
    for name in ("function_call", "audio"):
        refuse_unless(not getattr(turn, name), f"{at}.{name}", "leave it out")
    role: Role = "system" if turn.role == "developer" else turn.role
    calls = _calls(turn, at)
    content = "" if calls and turn.content is None else _text(turn.content, f"{at}.content")
    pictures = _pictures(turn.content, f"{at}.content") if role == "user" else ()
    return Message(
        role=role,
        content=content,
        tool_calls=calls,
        tool_call_id=_answered(turn, at),
        reasoning=(turn.reasoning_content or turn.reasoning or "") if role == "assistant" else "",
        pictures=pictures,
    )


def _calls(turn: TurnBody, at: str) -> tuple[ToolCall, ...]:
    where = f"{at}.tool_calls"
    if turn.tool_calls and turn.role != "assistant":
        raise BadRequest(f"{where} is for the assistant's turns; leave it out", param=where)
    return tuple(
        ToolCall(id=each.id, name=each.function.name, arguments=each.function.arguments)
        for each in turn.tool_calls or ()
    )


def _answered(turn: TurnBody, at: str) -> str | None:
    where = f"{at}.tool_call_id"
    if turn.tool_call_id is not None and turn.role != "tool":
        raise BadRequest(f"{where} is for turns of role tool; leave it out", param=where)
    return turn.tool_call_id


def refuse_unless(holds: bool, name: str, remedy: str) -> None:
    """Raise BadRequest for a field whose wish no engine can fulfil."""
    if not holds:
        raise BadRequest(f"{name} is not supported here; {remedy}", param=name)


def _text(content: str | list[ContentPart] | None, at: str) -> str:
    if content is None:
        raise BadRequest(f"{at} is missing; write the message's text", param=at)
    if isinstance(content, str):
        return content
    for number, part in enumerate(content):
        if part.image_url is None and (part.type != "text" or part.text is None):
            where = f"{at}[{number}]"
            raise BadRequest(
                f"{where} is neither a text nor an image_url; leave it out", param=where
            )
    return "".join(part.text or "" for part in content)


def _pictures(content: str | list[ContentPart] | None, at: str) -> tuple[Picture, ...]:
    """Return the pictures of a message. Raises BadRequest."""
    if content is None or isinstance(content, str):
        return ()
    found = []
    for number, part in enumerate(content):
        if part.image_url is not None:
            where = f"{at}[{number}].image_url"
            try:
                found.append(picture_at(part.image_url.url))
            except RequestError as error:
                raise BadRequest(f"{where}: {error}", param=where) from None
    if len(found) > MAX_PICTURES:
        raise BadRequest(f"{at} has more than {MAX_PICTURES} pictures; send fewer", param=at)
    return tuple(found)


def read_schema(form: ResponseFormat | None) -> dict[str, Any] | None:
    """Return the JSON schema that is asked for, if any. Raises BadRequest."""
    if form is None or form.type == "text":
        return None
    if form.type == "json_object":
        return {"type": "object"}
    if form.json_schema is None:
        at = "response_format.json_schema"
        raise BadRequest(f"{at} is missing; give the schema", param=at)
    check_depth(form.json_schema.schema, "response_format.json_schema.schema")
    return form.json_schema.schema


def read_options(options: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return further variables of the chat template. Raises BadRequest for those that are set."""
    at = "chat_template_kwargs"
    for name in options or {}:
        if name in _SET or not name.isidentifier():
            raise BadRequest(f"{at}.{name} is no variable that can be set; leave it out", param=at)
    check_depth(options or {}, at)
    return options or None


def check_depth(schema: dict[str, Any], at: str) -> None:
    """Raise BadRequest for a schema nested more deeply than the link takes."""
    level: list[Any] = [schema]
    for _ in range(MAX_SCHEMA_DEPTH):
        nested = [each.values() if isinstance(each, dict) else each for each in level]
        level = [one for each in nested for one in each if isinstance(one, dict | list)]
        if not level:
            return
    raise BadRequest(
        f"{at} is nested more than {MAX_SCHEMA_DEPTH} deep; give a flatter one", param=at
    )


_NAME = "continue_final_message"


def split_begun(body: ChatBody, turns: tuple[Message, ...]) -> tuple[tuple[Message, ...], str]:
    """Return the turns to answer, and how the answer begins. Raises BadRequest."""
    if not body.continue_final_message:
        if body.add_generation_prompt is False:
            message = f"add_generation_prompt can only be false where {_NAME} is true"
            raise BadRequest(f"{message}; leave it out", param="add_generation_prompt")
        return turns, ""
    for name in ("add_generation_prompt", "tools"):
        if getattr(body, name):
            raise BadRequest(f"{name} and {_NAME} exclude each other; leave one out", param=name)
    last = turns[-1]
    if last.role != "assistant" or last.tool_calls or len(turns) < 2:
        raise BadRequest(
            f"{_NAME} goes on with a last turn of the assistant's, behind a question; end messages "
            "with one",
            param=_NAME,
        )
    return turns[:-1], last.content
