"""Definitions of the user service, read as each system's own manager reads them."""

from __future__ import annotations

import configparser
import json
import os
import plistlib
import shlex
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from edge.near.user_service import LABEL, definition
from tests.in_process import Run

COMMAND = ["/opt/my env/bin/python", "-m", "nearfar", "up"]
HOME = Path("/home/me")


def test_systemd_gets_a_unit_that_starts_at_log_in() -> None:
    made = definition("linux", COMMAND, HOME)
    unit = configparser.RawConfigParser()
    unit.optionxform = str  # type: ignore[method-assign, assignment]
    unit.read_string(made.text)
    assert shlex.split(unit["Service"]["ExecStart"]) == COMMAND
    assert unit["Install"]["WantedBy"] == "default.target"
    assert made.path == HOME / ".config/systemd/user/nearfar.service"
    odd = definition("linux", ["/o%h/$x/py"], HOME).text
    assert 'ExecStart="/o%%h/$$x/py"' in odd, "systemd would put other words in their place"


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd itself checks the unit")
@pytest.mark.parametrize("word", ["up", "a b", "$x", "100%h", 'say "so"', "back\\slash"])
def test_systemd_itself_finds_nothing_wrong_with_the_unit(tmp_path: Path, word: str) -> None:
    made = definition("linux", [sys.executable, "-m", "nearfar", word], tmp_path)
    unit = tmp_path / "nearfar.service"
    unit.write_text(made.text)
    told = subprocess.run(
        ["systemd-analyze", "verify", "--user", str(unit)],
        capture_output=True,
        text=True,
        env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
    )
    assert (told.returncode, told.stderr) == (0, "")


def test_launchd_gets_a_property_list() -> None:
    made = definition("darwin", COMMAND, HOME)
    told = plistlib.loads(made.text.encode())
    assert told["ProgramArguments"] == COMMAND and told["Label"] == LABEL and told["RunAtLoad"]
    assert made.path.name == f"{LABEL}.plist"


def test_windows_gets_a_task_that_no_battery_stops() -> None:
    made = definition("win32", ["C:\\a & b\\python.exe", *COMMAND[1:]], HOME)
    task = ET.fromstring(made.text)
    space = {"t": "http://schemas.microsoft.com/windows/2004/02/mit/task"}
    assert task.findtext(".//t:Exec/t:Command", namespaces=space) == "C:\\a & b\\python.exe"
    assert task.findtext(".//t:Exec/t:Arguments", namespaces=space) == "-m nearfar up"
    assert task.find(".//t:LogonTrigger", namespaces=space) is not None


def test_installing_writes_the_file_and_says_how_to_start_it(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    status, out, _ = run("up", "--install", "--json")
    told = json.loads(out)
    assert status == 0 and Path(told["path"]).read_text().startswith("[Unit]")
    assert "systemctl --user enable --now nearfar" in told["start"]
