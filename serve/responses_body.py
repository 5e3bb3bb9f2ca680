"""Responses body: OpenAI's newer form of a chat, read as the older one asks it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from offload.engine import Engine
from serve.chat_turns import refuse_unless
from serve.http_errors import BadRequest
from serve.options import ServeOptions
from serve.request_parsing import ParsedRequest, read_chat
from serve.request_schema import (
    ChatBody,
    Ignored,
    MaxTokens,
    RequestBody,
    Share,
    Temperature,
    explained,
)


class InputPart(msgspec.Struct, frozen=True):
    """One part of an item's content; only parts of text can be read."""

    type: str
    text: str | None = None


class InputItem(msgspec.Struct, frozen=True):
    """One item of a conversation: a message, a call of a tool, or what a call brought."""

    type: str = "message"
    role: Literal["system", "developer", "user", "assistant"] = "user"
    content: str | list[InputPart] | None = None
    call_id: str = ""
    name: str = ""
    arguments: str = ""
    output: str | list[InputPart] | None = None


class FunctionTool(RequestBody, kw_only=True, frozen=True):
    """A function that the model may call."""

    type: str
    name: str = ""
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: Ignored = None


class TextFormat(msgspec.Struct, frozen=True):
    """The form of the answer."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    name: str = "answer"
    schema: dict[str, Any] | None = None


class TextConfig(msgspec.Struct, frozen=True):
    """What the text shall be like."""

    format: TextFormat | None = None


class ResponsesBody(RequestBody, kw_only=True, frozen=True):
    """The body of POST /v1/responses."""

    model: Annotated[str, Meta(min_length=1, max_length=200)]
    input: str | Annotated[list[InputItem], Meta(min_length=1)]
    instructions: str | None = None
    max_output_tokens: MaxTokens | None = None
    temperature: Temperature | None = None
    top_p: Share | None = None
    stream: bool | None = None
    text: TextConfig | None = None
    tools: list[FunctionTool] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    previous_response_id: Any = None
    conversation: Any = None
    background: Any = None
    prompt: Any = None
    store: Ignored = None
    include: Ignored = None
    metadata: Ignored = None
    reasoning: Ignored = None
    service_tier: Ignored = None
    truncation: Ignored = None
    user: Ignored = None
    safety_identifier: Ignored = None
    prompt_cache_key: Ignored = None
    stream_options: Ignored = None


def read_responses(body: ResponsesBody, engine: Engine, options: ServeOptions) -> ParsedRequest:
    """Return what a body asks for. Raises BadRequest or RequestError."""
    for name in ("previous_response_id", "conversation"):
        refuse_unless(not getattr(body, name), name, "send the whole conversation as input")
    for name in ("background", "prompt"):
        refuse_unless(not getattr(body, name), name, "leave it out")
    if body.max_output_tokens == 0:
        problem = "max_output_tokens is 0; ask for 1 or more, or -1 for no limit"
        raise BadRequest(problem, param="max_output_tokens")
    asked: dict[str, Any] = {
        "model": body.model,
        "messages": list(_turns(body)),
        "stream": bool(body.stream),
        **_form(body.text),
        **_tools(body),
    }
    for name, value in (
        ("max_completion_tokens", body.max_output_tokens),
        ("temperature", body.temperature),
        ("top_p", body.top_p),
    ):
        asked |= {} if value is None else {name: value}
    try:
        chat = msgspec.convert(asked, ChatBody)
    except msgspec.ValidationError as error:
        raise explained(str(error)) from None
    return read_chat(chat, engine, options)


def _turns(body: ResponsesBody) -> Iterator[dict[str, Any]]:
    if body.instructions:
        yield {"role": "system", "content": body.instructions}
    if isinstance(body.input, str):
        yield {"role": "user", "content": body.input}
        return
    calls: list[dict[str, Any]] = []
    for at, item in enumerate(body.input):
        if item.type == "function_call":
            function = {"name": item.name, "arguments": item.arguments}
            calls.append({"id": item.call_id, "type": "function", "function": function})
            continue
        if calls:  # those that follow each other are of one turn
            yield {"role": "assistant", "content": None, "tool_calls": calls}
            calls = []
        if item.type == "reasoning":  # what the model thought is its own
            continue
        yield _turn(item, f"input[{at}]")
    if calls:
        yield {"role": "assistant", "content": None, "tool_calls": calls}


def _turn(item: InputItem, at: str) -> dict[str, Any]:
    if item.type == "function_call_output":
        text = _text(item.output, f"{at}.output")
        return {"role": "tool", "content": text, "tool_call_id": item.call_id}
    refuse_unless(item.type == "message", f"{at}.type {item.type[:40]!r}", "send messages")
    return {"role": item.role, "content": _text(item.content, f"{at}.content")}


def _text(content: str | Sequence[InputPart] | None, at: str) -> str:
    if isinstance(content, str):
        return content
    for part in content or ():
        if part.text is None or part.type not in ("input_text", "output_text", "text"):
            raise BadRequest(f"{at} is no text, and only text can be read; leave it out", param=at)
    return "".join(part.text or "" for part in content or ())


def _form(text: TextConfig | None) -> dict[str, Any]:
    form = text.format if text else None
    if form is None or form.type == "text":
        return {}
    if form.type == "json_object":
        return {"response_format": {"type": "json_object"}}
    named = {"name": form.name, "schema": form.schema or {}}
    return {"response_format": {"type": "json_schema", "json_schema": named}}


def _tools(body: ResponsesBody) -> dict[str, Any]:
    if not body.tools:
        return {}
    made = []
    for at, tool in enumerate(body.tools):
        refuse_unless(tool.type == "function", f"tools[{at}].type", "offer functions")
        function: dict[str, Any] = {"name": tool.name, "description": tool.description}
        made.append({"type": "function", "function": {**function, "parameters": tool.parameters}})
    asked: dict[str, Any] = {"tools": made, "parallel_tool_calls": body.parallel_tool_calls}
    chosen = body.tool_choice
    if isinstance(chosen, dict):
        chosen = {"type": "function", "function": {"name": str(chosen.get("name", ""))}}
    return asked | ({} if chosen is None else {"tool_choice": chosen})
