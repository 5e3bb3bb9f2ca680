"""Tools: built-in ones within their bounds, and a real MCP server over its standard streams."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from edge.tools import mcp_client
from edge.tools.builtin import FileTools, TimeTools
from edge.tools.desk import AskedCall, ToolDesk, ToolReply, open_desk
from edge.tools.mcp_client import McpTools
from edge.tools.server_list import McpServer, read_servers
from edge.tools.tool import MAX_RESULT_CHARS, shortened
from offload.config.places import places
from offload.config.settings import ToolSettings
from offload.errors import RequestError, SettingsError
from offload.messages import ToolCall

SERVER = McpServer(command=sys.executable, args=(str(Path(__file__).with_name("server.py")),))


def call_of(name: str, **arguments: object) -> ToolCall:
    return ToolCall(id="call_1", name=name, arguments=json.dumps(arguments))


async def yes(_: str, asked: AskedCall) -> ToolReply:
    return "once"


async def test_the_time_is_told_here_and_elsewhere() -> None:
    source = TimeTools()
    assert (await source.call("current_time", {"zone": "Asia/Tokyo"})).text.endswith("JST")
    assert (await source.call("current_time", {})).text
    for zone in ("Nowhere/At all", "../../etc/passwd", "\0"):
        assert (await source.call("current_time", {"zone": zone})).failed


@pytest.mark.skipif(os.name == "nt", reason="links want rights there")
async def test_files_are_read_in_their_folder_and_nowhere_else(tmp_path: Path) -> None:
    folder, secret = tmp_path / "notes", tmp_path / "secret.txt"
    folder.mkdir()
    secret.write_text("hidden")
    (folder / "a.txt").write_text("open")
    (folder / ".env").write_text("hidden")
    (folder / "link.txt").symlink_to(secret)
    source = FileTools(folder)
    assert (await source.call("list_files", {})).text == "a.txt"
    assert (await source.call("read_file", {"path": "a.txt"})).text == "open"
    for path in ("../secret.txt", str(secret), "link.txt", ".env", "none.txt", "."):
        result = await source.call("read_file", {"path": path})
        assert result.failed and "hidden" not in result.text and str(tmp_path) not in result.text
    with pytest.raises(RequestError, match="is no folder"):
        FileTools(tmp_path / "none")


def test_servers_are_read_as_other_programs_write_them(tmp_path: Path) -> None:
    path = tmp_path / "mcp.json"
    assert read_servers(path) == {}
    path.write_text(
        '{"mcpServers": {"a": {"command": "x", "args": ["1"], "type": "stdio"}, '
        '"b": {"url": "https://there", "disabled": true}}, "inputs": []}'
    )
    assert read_servers(path) == {"a": McpServer(command="x", args=("1",))}
    for broken in ("{", '{"mcpServers": {"a": {"url": "https://there"}}}', '{"mcpServers": []}'):
        path.write_text(broken)
        with pytest.raises(SettingsError, match=r"mend|disabled"):
            read_servers(path)


def test_nothing_is_offered_by_default() -> None:
    assert open_desk(ToolSettings(), places(), yes).sources == []


def test_a_long_result_is_cut_and_says_so() -> None:
    assert shortened("a" * (MAX_RESULT_CHARS + 5)).endswith("[5 characters more are left out]")


async def test_a_person_is_asked_before_each_call_or_once_for_a_conversation() -> None:
    replies: list[ToolReply] = ["no", "once", "conversation"]
    asked: list[str] = []

    async def ask(conversation: str, call: AskedCall) -> ToolReply:
        asked.append(f"{conversation} {call.server} {call.shown}")
        return replies.pop(0)

    desk = ToolDesk([TimeTools()], ask)
    await desk.toolbox()
    call = call_of("current_time", zone="UTC")
    assert "did not allow" in (await desk.run(call, "c"))[1].text
    for _ in range(4):
        assert "UTC" in (await desk.run(call, "c"))[1].text
    assert asked == ['c time current_time(zone="UTC")'] * 3


async def test_a_real_server_is_started_asked_and_ended() -> None:
    pytest.importorskip("mcp", reason="the extra mcp is not installed")
    source = McpTools("harbour", SERVER)
    desk = ToolDesk([source, McpTools("second", SERVER)], yes)
    toolbox = await desk.toolbox()
    assert toolbox is not None and desk.troubles == []
    assert {"berth_fee", "second_berth_fee"} <= toolbox.names
    assert toolbox.takes("berth_fee", {"berth": 7}) and not toolbox.takes("berth_fee", {})
    _, done = await desk.run(call_of("berth_fee", berth=7), "c")
    assert done.text.startswith("The fee of berth 7 is 107 crowns") and not done.failed
    _, broken = await desk.run(call_of("fails"), "c")
    assert broken.failed
    await desk.aclose()


async def test_a_server_that_dies_or_hangs_or_is_none_costs_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("mcp", reason="the extra mcp is not installed")
    monkeypatch.setattr(mcp_client, "CALL_S", 3.0)
    nowhere = McpTools("none", McpServer(command="/nonexistent/program"))
    desk = ToolDesk([nowhere, McpTools("harbour", SERVER)], yes)
    toolbox = await desk.toolbox()
    assert toolbox is not None and "berth_fee" in toolbox.names
    (trouble,) = desk.troubles
    assert "'none' does not answer" in trouble and "/tools off" in trouble
    for name in ("ends", "sleeps"):
        _, result = await desk.run(call_of(name), "c")
        assert result.failed
        _, after = await desk.run(call_of("berth_fee", berth=1), "c")
        assert "101 crowns" in after.text, "the server is started anew"
    await desk.aclose()
