"""MCP client: one server, a program of this machine that speaks over its standard streams.

It lives in a task of its own, since the SDK's scopes must be left by the task that entered them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable
from typing import Any

from backbone.errors import MissingExtra, cause
from edge.tools.server_list import McpServer
from edge.tools.tool import Tool, ToolResult, shortened
from offload.errors import RequestError

START_S = 30.0
CALL_S = 120.0
_MAX_TOOLS = 64
_Work = tuple[Callable[[Any], Awaitable[Any]], "asyncio.Future[Any]"]


class McpTools:
    """Tools of one MCP server, which is started when they are first asked for."""

    def __init__(self, name: str, server: McpServer) -> None:
        self.name = name
        self._server = server
        self._work: asyncio.Queue[_Work | None] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def tools(self) -> list[Tool]:
        """Return the server's tools. Raises RequestError where it does not start, MissingExtra."""
        listed = await self._within(lambda client: client.list_tools(), CALL_S)
        return [
            Tool(name=each.name, description=each.description or "", parameters=each.input_schema)
            for each in listed.tools[:_MAX_TOOLS]
        ]

    async def call(self, name: str, arguments: dict[str, Any]) -> ToolResult:
        """Call a tool. Raises RequestError where the server does not answer."""
        done = await self._within(lambda client: client.call_tool(name, arguments), CALL_S)
        texts = [getattr(each, "text", f"[{each.type} left out]") for each in done.content]
        return ToolResult(text=shortened("\n".join(texts)), failed=bool(done.is_error))

    async def aclose(self) -> None:
        """End the server."""
        if self._task is not None:
            self._work.put_nowait(None)
            with contextlib.suppress(Exception):
                await self._task
            self._task = None

    async def _within(self, asked: Callable[[Any], Awaitable[Any]], limit_s: float) -> Any:
        """Have something done by the server's task."""
        if self._task is None or self._task.done():
            limit_s += START_S
            self._work = asyncio.Queue()
            self._task = asyncio.create_task(self._run(self._work))
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._work.put_nowait((asked, answer))
        waiting = asyncio.wait({answer, self._task}, return_when=asyncio.FIRST_COMPLETED)
        try:
            await asyncio.wait_for(waiting, limit_s)
            if answer.done():
                return answer.result()
            self._task.result()
            raise EOFError("it has ended")
        except asyncio.TimeoutError:
            await self._kill()
            reason = f"no answer within {limit_s:.0f} s"
        except MissingExtra:
            raise
        except Exception as error:
            reason = cause(_first(error))
        raise RequestError(
            f"the tool server {self.name!r} does not answer ({reason}); look at its command in "
            "mcp.json, or go on without it: /tools off"
        )

    async def _kill(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self, work: asyncio.Queue[_Work | None]) -> None:
        try:
            from mcp.client.client import Client
            from mcp.client.stdio import StdioServerParameters, stdio_client
        except ModuleNotFoundError as missing:
            raise MissingExtra(missing.name or "mcp", "mcp") from None
        server = self._server
        wish = StdioServerParameters(
            command=server.command, args=list(server.args), env=dict(server.env), cwd=server.cwd
        )
        # What a server tells of itself may hold what it was asked.
        with open(os.devnull, "w") as nowhere:
            async with Client(stdio_client(wish, errlog=nowhere)) as client:
                while (item := await work.get()) is not None:
                    asked, answer = item
                    try:
                        done = await asked(client)
                    except Exception as error:
                        if not answer.done():
                            answer.set_exception(error)
                    else:
                        if not answer.done():
                            answer.set_result(done)


def _first(error: BaseException) -> BaseException:
    """Return the error within a group of them."""
    while (within := getattr(error, "exceptions", None)) and isinstance(within, tuple):
        error = within[0]
    return error
