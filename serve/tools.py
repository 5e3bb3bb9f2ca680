"""Tools that a client offers: what the model is told of them, and how a call of one is forced."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jsonschema_rs
import msgspec

from offload.tool_calls.toolbox import Toolbox, validator_of
from serve.chat_turns import check_depth
from serve.http_errors import BadRequest
from serve.request_schema import ChatBody, ChosenTool, ToolBody


def read_tools(body: ChatBody) -> Toolbox | None:
    """Return the tools that the model may call, or None. Raises BadRequest."""
    choice = body.tool_choice
    tools = body.tools or []
    if not tools:
        if choice not in (None, "none", "auto"):
            raise BadRequest("tool_choice asks for a tool; give some in tools", param="tool_choice")
        return None
    validators = _check(tools)
    if choice == "none":
        return None
    chosen = _chosen(tools, choice.function.name) if isinstance(choice, ChosenTool) else tools
    forced = choice not in (None, "auto")
    if forced and body.response_format is not None and body.response_format.type != "text":
        raise BadRequest(
            "tool_choice forces a call and response_format another form; ask for one of them",
            param="tool_choice",
        )
    return Toolbox(
        descriptions=tuple(_told(tool) for tool in chosen),
        names=frozenset(tool.function.name for tool in chosen),
        forced=forced,
        named=isinstance(choice, ChosenTool),
        max_calls=1 if forced or body.parallel_tool_calls is False else None,
        schema=_forced_schema(chosen) if forced else None,
        validators=validators,
    )


def describe(tools: Sequence[ToolBody]) -> tuple[dict[str, Any], ...]:
    """Return what a model is told of tools. Raises BadRequest."""
    _check(tools)
    return tuple(map(_told, tools))


def _check(tools: Sequence[ToolBody]) -> dict[str, jsonschema_rs.Validator]:
    """Return what checks the arguments of each tool that has a schema. Raises BadRequest."""
    seen: set[str] = set()
    validators: dict[str, jsonschema_rs.Validator] = {}
    for at, tool in enumerate(tools):
        if tool.function.name in seen:
            where = f"tools[{at}].function.name"
            raise BadRequest(f"{where} is there twice; rename one of them", param=where)
        seen.add(tool.function.name)
        if tool.function.parameters:
            where = f"tools[{at}].function.parameters"
            check_depth(tool.function.parameters, where)
            validators[tool.function.name] = _validator(tool.function.parameters, where)
    return validators


def _validator(schema: dict[str, Any], where: str) -> jsonschema_rs.Validator:
    try:
        return validator_of(schema)
    except ValueError as error:
        raise BadRequest(f"{where} is no JSON schema ({error}); correct it", param=where) from None


def _chosen(tools: Sequence[ToolBody], name: str) -> list[ToolBody]:
    found = [tool for tool in tools if tool.function.name == name]
    if not found:
        raise BadRequest(
            f"tool_choice names {name!r}, which is not in tools; offer it, or choose another",
            param="tool_choice",
        )
    return found


def _told(tool: ToolBody) -> dict[str, Any]:
    given = msgspec.structs.asdict(tool.function)
    function = {name: value for name, value in given.items() if value is not None}
    function.pop("strict", None)
    return {"type": "function", "function": function}


def _forced_schema(tools: Sequence[ToolBody]) -> dict[str, Any]:
    """Return the JSON schema of one call of any of these tools."""
    shared: dict[str, Any] = {}
    calls = [_call_schema(tool, shared) for tool in tools]
    schema = calls[0] if len(calls) == 1 else {"anyOf": calls}
    return schema | shared


def _call_schema(tool: ToolBody, shared: dict[str, Any]) -> dict[str, Any]:
    parameters = dict(tool.function.parameters or {"type": "object"})
    for word in ("$defs", "definitions"):  # references to them begin at the schema's root
        for name, value in parameters.pop(word, {}).items():
            if shared.setdefault(word, {}).setdefault(name, value) != value:
                raise BadRequest(
                    f"two tools define {name!r} differently, and one of them must be called; "
                    "rename it in one",
                    param="tools",
                )
    return {
        "type": "object",
        "properties": {"name": {"enum": [tool.function.name]}, "arguments": parameters},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }
