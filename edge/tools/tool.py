"""Tools of this device: what a model is told of one, its result, and where several come from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

MAX_RESULT_CHARS = 16_000  # of what a model is handed; a longer result is cut, and says so


@dataclass(frozen=True, kw_only=True)
class Tool:
    """A tool; `parameters` is the JSON schema of its arguments."""

    name: str
    description: str
    parameters: dict[str, Any] = field(default_factory=lambda: {"type": "object"})

    def described(self, name: str) -> dict[str, Any]:
        """Return OpenAI's description of it under a name, as chat templates take it."""
        function = {"name": name, "description": self.description, "parameters": self.parameters}
        return {"type": "function", "function": function}


@dataclass(frozen=True, kw_only=True)
class ToolResult:
    """Result of a call, as text for the model; `refused` where its person did not allow it."""

    text: str
    failed: bool = False
    refused: bool = False


class ToolSource(Protocol):
    """Source of tools: the built-in ones, or a server."""

    name: str

    async def tools(self) -> list[Tool]:
        """Return its tools; a server is started for it. Raises NearfarError."""
        ...

    async def call(self, name: str, arguments: dict[str, Any]) -> ToolResult:
        """Call one of them; a fault of the tool is its result. Raises NearfarError."""
        ...

    async def aclose(self) -> None:
        """End what was started."""
        ...


def shortened(text: str) -> str:
    """Return a result no longer than a model is handed."""
    if len(text) <= MAX_RESULT_CHARS:
        return text
    rest = len(text) - MAX_RESULT_CHARS
    return f"{text[:MAX_RESULT_CHARS]}\n[{rest} characters more are left out]"
