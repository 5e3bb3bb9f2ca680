"""User service: `nearfar up` started at log-in, by systemd, launchd or Windows' Task Scheduler."""

from __future__ import annotations

import json
import plistlib
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

from backbone.files import atomic_write
from backbone.terminal_text import echo, echo_json

NAME = "nearfar"
LABEL = "io.github.nearfar"
_READABLE = 0o644


@dataclass(frozen=True, kw_only=True)
class ServiceDefinition:
    """What a system's own manager of services reads: a file, and the words that start it."""

    path: Path
    text: str
    start: str
    stop: str


def install_service(*, as_json: bool) -> None:
    """Write the definition for this system, and say how it is started and taken away."""
    made = definition(sys.platform, [sys.executable, "-m", "nearfar", "up"], Path.home())
    made.path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(made.path, made.text.encode(), mode=_READABLE)
    if as_json:
        document = {"path": str(made.path), "start": made.start, "stop": made.stop}
        echo_json(json.dumps(document))
        return
    echo(f"wrote {made.path}")
    echo(f"start it now and at each log-in: {made.start}")
    echo(f"take it away: {made.stop}")
    echo("checked as a file, and not yet tried on such a system", err=True)


def definition(platform: str, command: list[str], home: Path) -> ServiceDefinition:
    """Return the definition for a system, by its name as sys.platform tells it."""
    if platform == "darwin":
        return _launchd(command, home)
    if platform == "win32":
        return _task(command, home)
    return _systemd(command, home)


def _systemd(command: list[str], home: Path) -> ServiceDefinition:
    started = " ".join(_systemd_word(word) for word in command)
    text = f"""[Unit]
Description=nearfar: language models near, and far when that pays
After=network.target

[Service]
ExecStart={started}
Restart=on-failure
RestartSec=3
NoNewPrivileges=true

[Install]
WantedBy=default.target
"""
    path = home / ".config" / "systemd" / "user" / f"{NAME}.service"
    return ServiceDefinition(
        path=path,
        text=text,
        start=f"systemctl --user daemon-reload && systemctl --user enable --now {NAME}",
        stop=f"systemctl --user disable --now {NAME} && rm {shlex.quote(str(path))}",
    )


def _systemd_word(word: str) -> str:
    """Return one word as a unit file spells it: quoted, with specifiers and variables as text."""
    plain = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{plain}"' if " " in word or plain != word else word


def _launchd(command: list[str], home: Path) -> ServiceDefinition:
    path = home / "Library" / "LaunchAgents" / f"{LABEL}.plist"
    log = str(home / "Library" / "Logs" / f"{NAME}.log")
    text = plistlib.dumps(
        {
            "Label": LABEL,
            "ProgramArguments": command,
            "RunAtLoad": True,
            "KeepAlive": {"SuccessfulExit": False},
            "StandardOutPath": log,
            "StandardErrorPath": log,
        }
    ).decode()
    quoted = shlex.quote(str(path))
    return ServiceDefinition(
        path=path,
        text=text,
        start=f"launchctl bootstrap gui/$(id -u) {quoted}",
        stop=f"launchctl bootout gui/$(id -u)/{LABEL} && rm {quoted}",
    )


def _task(command: list[str], home: Path) -> ServiceDefinition:
    program, *words = command
    arguments = " ".join(f'"{word}"' if " " in word else word for word in words)
    text = f"""<?xml version="1.0"?>
<Task version="1.2" xmlns="http://schemas.microsoft.com/windows/2004/02/mit/task">
  <Triggers><LogonTrigger><Enabled>true</Enabled></LogonTrigger></Triggers>
  <Settings>
    <MultipleInstancesPolicy>IgnoreNew</MultipleInstancesPolicy>
    <DisallowStartIfOnBatteries>false</DisallowStartIfOnBatteries>
    <ExecutionTimeLimit>PT0S</ExecutionTimeLimit>
  </Settings>
  <Actions>
    <Exec><Command>{escape(program)}</Command><Arguments>{escape(arguments)}</Arguments></Exec>
  </Actions>
</Task>
"""
    path = home / "AppData" / "Local" / NAME / f"{NAME}-task.xml"
    return ServiceDefinition(
        path=path,
        text=text,
        start=f'schtasks /Create /TN {NAME} /XML "{path}" && schtasks /Run /TN {NAME}',
        stop=f"schtasks /Delete /TN {NAME} /F",
    )
