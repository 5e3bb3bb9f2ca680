"""Built-in tools, off by default: the time, and the files of one folder."""

from __future__ import annotations

import asyncio
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from edge.documents.folder import documents_in
from edge.tools.tool import Tool, ToolResult, shortened
from offload.documents.reader import read_document
from offload.errors import RequestError

_MAX_LISTED = 500


def _text(description: str) -> dict[str, str]:
    return {"type": "string", "description": description}


class TimeTools:
    """The date and the time."""

    name = "time"

    async def tools(self) -> list[Tool]:
        """Return the one tool."""
        zone = _text("A time zone such as Europe/Berlin; without one that of this device.")
        parameters = {"type": "object", "properties": {"zone": zone}, "additionalProperties": False}
        description = "Tell the date, the time and the day of the week."
        return [Tool(name="current_time", description=description, parameters=parameters)]

    async def call(self, name: str, arguments: dict[str, Any]) -> ToolResult:
        """Return the time, there or here."""
        try:
            zone = ZoneInfo(str(arguments["zone"])) if arguments.get("zone") else None
        except (ZoneInfoNotFoundError, ValueError, OSError):
            return ToolResult(text=f"there is no time zone {arguments['zone']!r}", failed=True)
        now = datetime.now(zone).astimezone(zone)
        return ToolResult(text=now.strftime("%A, %Y-%m-%d %H:%M:%S %Z"))

    async def aclose(self) -> None:
        """End nothing."""


class FileTools:
    """The files of one folder, to be listed and read; nothing out of it, and nothing written."""

    name = "files"

    def __init__(self, folder: Path) -> None:
        """Raises RequestError where there is no such folder."""
        if not folder.is_dir():
            raise RequestError(f"tools.files names {folder}, which is no folder; set another")
        self._folder = folder.resolve()

    async def tools(self) -> list[Tool]:
        """Return both tools."""
        path = _text("The file's path, as list_files tells it.")
        reading = {
            "type": "object",
            "properties": {"path": path},
            "required": ["path"],
            "additionalProperties": False,
        }
        nothing = {"type": "object", "properties": {}, "additionalProperties": False}
        return [
            Tool(name="list_files", description="List the person's files.", parameters=nothing),
            Tool(
                name="read_file",
                description="Read the text of one of the person's files.",
                parameters=reading,
            ),
        ]

    async def call(self, name: str, arguments: dict[str, Any]) -> ToolResult:
        """List or read, in a thread."""
        if name == "list_files":
            return await asyncio.to_thread(self._list)
        return await asyncio.to_thread(self._read, str(arguments.get("path", "")))

    def _list(self) -> ToolResult:
        names = [each.relative_to(self._folder).as_posix() for each in documents_in(self._folder)]
        more = len(names) - _MAX_LISTED
        shown = names[:_MAX_LISTED] + ([f"[{more} more]"] if more > 0 else [])
        return ToolResult(text="\n".join(shown) or "there are no files")

    def _read(self, name: str) -> ToolResult:
        path = (self._folder / name).resolve()  # a link is followed before it is judged
        if not path.is_relative_to(self._folder) or any(
            part.startswith(".") for part in path.relative_to(self._folder).parts
        ):
            return ToolResult(text="that path is not among the files", failed=True)
        try:
            return ToolResult(text=shortened(read_document(path, pipes=False).text))
        except RequestError as error:
            return ToolResult(text=str(error).replace(str(self._folder), "."), failed=True)

    async def aclose(self) -> None:
        """End nothing."""
