"""Tool desk: the tools that chat and page offer, and the one way by which a call is made.

No call is made without a person's word, and each is shown. A result is private: it goes through the
same gate as all else before it leaves.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from backbone.errors import NearfarError
from backbone.files import expanded
from edge.tools.builtin import FileTools, TimeTools
from edge.tools.mcp_client import McpTools
from edge.tools.server_list import read_servers
from edge.tools.tool import Tool, ToolResult, ToolSource
from offload.config.places import Places
from offload.config.settings import ToolSettings
from offload.messages import ToolCall
from offload.tool_calls.toolbox import Toolbox, validator_of

ToolReply = Literal["once", "conversation", "no"]
_NOT_ALLOWED = re.compile(r"[^A-Za-z0-9_-]")
_REFUSED = "The person did not allow this call. Answer without it."


@dataclass(frozen=True, kw_only=True)
class AskedCall:
    """A call that a person is asked about: of which server, and with what arguments."""

    call: ToolCall
    server: str
    description: str

    @property
    def shown(self) -> str:
        """The call in one line."""
        try:
            arguments = json.loads(self.call.arguments)
            written = ", ".join(
                f"{name}={json.dumps(value, ensure_ascii=False)}"
                for name, value in arguments.items()
            )
        except (ValueError, AttributeError):
            written = self.call.arguments
        return f"{self.call.name}({written})"


AskCall = Callable[[str, AskedCall], Awaitable[ToolReply]]


@dataclass
class ToolDesk:
    """Tools of several sources under names of their own; opened at the first question.

    `ask` is told the conversation and the call. `troubles` are sources that could not be opened.
    """

    sources: Sequence[ToolSource]
    ask: AskCall
    is_on: bool = True
    troubles: list[str] = field(default_factory=list)
    _tools: dict[str, tuple[ToolSource, Tool]] | None = None
    _agreed: set[tuple[str, str]] = field(default_factory=set)

    async def toolbox(self) -> Toolbox | None:
        """Return what a model may call now; None for nothing."""
        if not self.is_on or not self.sources:
            return None
        if self._tools is None:
            self._tools = await self._opened()
        if not self._tools:
            return None
        return Toolbox(
            descriptions=tuple(tool.described(name) for name, (_, tool) in self._tools.items()),
            names=frozenset(self._tools),
            validators={n: validator_of(tool.parameters) for n, (_, tool) in self._tools.items()},
        )

    async def _opened(self) -> dict[str, tuple[ToolSource, Tool]]:
        found: dict[str, tuple[ToolSource, Tool]] = {}
        self.troubles.clear()
        for source in self.sources:
            try:
                for tool in await source.tools():
                    found[self._name(tool, source, found)] = (source, _checked(tool))
            except NearfarError as error:
                self.troubles.append(str(error))
        return found

    @staticmethod
    def _name(tool: Tool, source: ToolSource, taken: dict[str, tuple[ToolSource, Tool]]) -> str:
        """Return a name that templates and clients take; of two the second has its server's."""
        name = _NOT_ALLOWED.sub("_", tool.name)[:64]
        return name if name not in taken else _NOT_ALLOWED.sub("_", f"{source.name}_{name}")[:64]

    def listed(self) -> list[tuple[str, str, str]]:
        """Return the name, the source and the description of each tool that is open."""
        known = self._tools or {}
        return [(name, source.name, tool.description) for name, (source, tool) in known.items()]

    async def run(self, call: ToolCall, conversation: str) -> tuple[AskedCall, ToolResult]:
        """Ask about a call, make it where it may be, and return it with its result."""
        assert self._tools is not None, "a call is of a tool that was offered"
        source, tool = self._tools[call.name]
        asked = AskedCall(call=call, server=source.name, description=tool.description)
        if (conversation, call.name) not in self._agreed:
            reply = await self.ask(conversation, asked)
            if reply == "no":
                return asked, ToolResult(text=_REFUSED, failed=True, refused=True)
            if reply == "conversation":
                self._agreed.add((conversation, call.name))
        try:
            return asked, await source.call(tool.name, json.loads(call.arguments or "{}"))
        except NearfarError as error:
            return asked, ToolResult(text=str(error), failed=True)

    async def aclose(self) -> None:
        """End every source."""
        for source in self.sources:
            await source.aclose()


def _checked(tool: Tool) -> Tool:
    """Return a tool; one whose schema is none takes any arguments."""
    try:
        validator_of(tool.parameters)
    except ValueError:
        return Tool(name=tool.name, description=tool.description)
    return tool


def open_desk(settings: ToolSettings, here: Places, ask: AskCall) -> ToolDesk:
    """Return the desk that the settings and mcp.json say; nothing is started yet.

    Raises SettingsError, RequestError.
    """
    sources: list[ToolSource] = [TimeTools()] if settings.time else []
    if settings.files:
        sources.append(FileTools(expanded(settings.files)))
    servers = read_servers(here.tool_servers)
    sources += [McpTools(name, server) for name, server in servers.items()]
    return ToolDesk(sources, ask)
