"""The tools a client offers: what the model is told of them, and how a call of one is forced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from serve.failures import BadRequest
from serve.schema import ChatBody, ChosenTool, ToolBody
from serve.turns import check_depth


@dataclass(frozen=True, kw_only=True)
class Toolbox:
    """The tools of one request.

    `names` are those the model may call, `forced` says that it must call one of them, `named` that
    the client chose which. `most` is how many calls an answer may hold; None is no limit.
    """

    descriptions: tuple[dict[str, Any], ...]
    names: frozenset[str]
    forced: bool = False
    named: bool = False
    most: int | None = None
    schema: dict[str, Any] | None = None


def read_tools(body: ChatBody) -> Toolbox | None:
    """Return the tools that the model may call, or None. Raises BadRequest."""
    choice = body.tool_choice
    tools = body.tools or []
    if not tools:
        if choice not in (None, "none", "auto"):
            raise BadRequest("tool_choice asks for a tool; give some in tools", param="tool_choice")
        return None
    _check(tools)
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
        most=1 if forced or body.parallel_tool_calls is False else None,
        schema=_forced_schema(chosen) if forced else None,
    )


def _check(tools: Sequence[ToolBody]) -> None:
    seen: set[str] = set()
    for at, tool in enumerate(tools):
        if tool.function.name in seen:
            where = f"tools[{at}].function.name"
            raise BadRequest(f"{where} is there twice; rename one of them", param=where)
        seen.add(tool.function.name)
        check_depth(tool.function.parameters or {}, f"tools[{at}].function.parameters")


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
