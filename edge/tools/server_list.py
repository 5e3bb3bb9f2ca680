"""Server list: the MCP servers of a person, in `mcp.json` as other programs write it.

`{"mcpServers": {"NAME": {"command": "...", "args": [...], "env": {...}}}}`; a server with
`"disabled": true` stays off. Those of other kinds (by a URL) are told and left out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from backbone.errors import cause
from backbone.file_reading import read_bytes
from offload.errors import SettingsError

MAX_FILE_BYTES = 1 << 20


class McpServer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An MCP server that is a program of this machine; `env` is all it gets beside the usual."""

    command: str = ""
    args: tuple[str, ...] = ()
    env: dict[str, str] = {}
    cwd: str | None = None
    disabled: bool = False


class ServerList(msgspec.Struct, frozen=True, kw_only=True):
    """The servers by their names."""

    mcpServers: dict[Annotated[str, Meta(min_length=1, max_length=64)], McpServer] = {}


def read_servers(path: Path) -> dict[str, McpServer]:
    """Return the servers that are on, by name; none where there is no file.

    Raises SettingsError.
    """
    try:
        known = msgspec.json.decode(read_bytes(path, MAX_FILE_BYTES, pipes=False), type=ServerList)
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} cannot be read ({cause(error)}); mend or delete it") from None
    on = {name: each for name, each in known.mcpServers.items() if not each.disabled}
    for name, server in on.items():
        if not server.command:
            raise SettingsError(
                f"the server {name!r} in {path} has no command; servers by a URL are not used, so "
                'take it out, or add "disabled": true'
            )
    return on
