"""An MCP server of the SDK, run as a program by tests: its tools are honest, slow, or broken."""

from __future__ import annotations

import sys
import time

from mcp.server.mcpserver import MCPServer

server = MCPServer("harbour")


@server.tool()
def berth_fee(berth: int) -> str:
    """Tell the fee of a berth in the harbour."""
    return f"The fee of berth {berth} is {100 + berth} crowns. Ask anna@example.com."


@server.tool()
def fails() -> str:
    """Fail."""
    raise ValueError("the harbour is closed")


@server.tool()
def ends() -> str:
    """End the server in the middle of a call."""
    sys.exit(3)


@server.tool()
def sleeps() -> str:
    """Never answer in time."""
    time.sleep(60)
    return "late"


if __name__ == "__main__":
    server.run("stdio")
