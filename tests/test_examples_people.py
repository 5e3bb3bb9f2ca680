"""The examples for people run as they stand: a laptop, an invite, a client, the assistant."""

from __future__ import annotations

import configparser
import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import typer.main

import nearfar_command

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """An environment in which `nearfar` is this code."""
    command = tmp_path / "bin" / "nearfar"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m nearfar "$@"\n')
    command.chmod(0o755)
    return {**os.environ, "PATH": f"{command.parent}:{os.environ['PATH']}"}


def run(arguments: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        arguments, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )


def test_a_laptop_chats_offline(environment: dict[str, str]) -> None:
    done = run(["examples/laptop_chat.sh"], environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Paris\nRome\n") and "offline" in done.stderr
    assert "What is the capital of France?" in done.stdout


@pytest.mark.slow
def test_a_device_joins_a_cloud_by_invite(environment: dict[str, str]) -> None:
    pytest.importorskip("torch", reason="the cloud's model needs torch")
    done = run(["examples/cloud_with_invite.sh"], environment)
    assert done.returncode == 0, done.stderr
    assert "8798" in done.stdout and "bytes sent" in done.stderr


@pytest.mark.slow
def test_a_chain_of_three_tells_the_whole_way(environment: dict[str, str]) -> None:
    pytest.importorskip("torch", reason="the cloud's model needs torch")
    done = run(["examples/chain_of_three.sh"], environment)
    assert done.returncode == 0, done.stderr
    assert "8798" in done.stdout and "Paris" in done.stdout
    hard, easy = [line for line in done.stderr.splitlines() if "you asked for the far" in line]
    assert "there far: " in hard and "there near: " in easy


def test_an_openai_client_asks(environment: dict[str, str]) -> None:
    pytest.importorskip("openai", reason="the example is for the openai package")
    server = subprocess.Popen(
        ["nearfar", "serve", "--port", "0", "--json"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        url = json.loads(server.stdout.readline())["url"]
        done = run(
            [sys.executable, "examples/openai_client.py"], {**environment, "OPENAI_BASE_URL": url}
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("Paris\n") and "x-nearfar" in done.stdout
    finally:
        server.terminate()
        server.communicate(timeout=20)


def test_the_assistant_says_where_it_is(environment: dict[str, str]) -> None:
    server = subprocess.Popen(
        ["examples/assistant.sh", "embedded", "0"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        url = json.loads(server.stdout.readline())["url"]
        with urllib.request.urlopen(url.partition("#")[0], timeout=20) as page:
            assert b"<title>nearfar</title>" in page.read()
    finally:
        server.terminate()
        server.communicate(timeout=20)


def test_the_jetsons_service_calls_what_there_is() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(EXAMPLES / "jetson" / "nearfar.service")
    _, name, *arguments = unit["Service"]["ExecStart"].split()
    command = typer.main.get_command(nearfar_command.whole_app()).commands[name]  # type: ignore[attr-defined]
    options = {option for parameter in command.params for option in parameter.opts}
    assert {each for each in arguments if each.startswith("--")} <= options
    assert unit["Service"]["DynamicUser"] == "yes"
