"""The chat as a person has it: in a real pseudo-terminal, with the embedded model."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edge.conversations.store import Conversations
from offload.config.places import places
from offload.link.local_keys import admitted, server_keys
from tests.offload.links import serving
from tests.offload.scripted import ScriptedEngine
from tests.waiting import wait_until

pexpect = pytest.importorskip("pexpect", reason="pexpect drives the pseudo-terminal")

ROOT = Path(__file__).parents[3]
PATIENCE_S = 30
ESCAPES = re.compile(r"\x1b(\[[0-9;?]*[a-zA-Z]|[=>]|\][^\x07]*\x07)")

WHERE = r"\x1b\[6n"

Start = Callable[..., "Terminal"]


class Terminal:
    """A chat in a terminal of its own."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        self.child = pexpect.spawn(
            sys.executable,
            ["-m", "nearfar", "chat", *arguments],
            cwd=str(ROOT),
            env={
                **os.environ,
                "TERM": "xterm-256color",
                **environment,
            },
            encoding="utf-8",
            dimensions=(30, 100),
            timeout=PATIENCE_S,
        )

    def see(self, words: Any) -> str:
        """Wait for the words; return all that came before them, without escapes."""
        seen = ""
        while self.child.expect([WHERE, words]) == 0:
            seen += self.child.before or ""
            self.child.send("\x1b[1;1R")  # as a terminal tells where its cursor is
        return ESCAPES.sub("", seen + (self.child.before or ""))

    def write(self, text: str) -> None:
        self.child.send(text)

    def leave(self) -> int:
        self.child.send("\x04")
        self.see(pexpect.EOF)
        self.child.close()
        return int(self.child.exitstatus or 0)


@pytest.fixture
def start() -> Iterator[Start]:
    running: list[Terminal] = []

    def begin(*arguments: str, **environment: str) -> Terminal:
        running.append(Terminal(*arguments, **environment))
        return running[-1]

    yield begin
    for terminal in running:
        terminal.child.close(force=True)


def kept() -> list[list[str]]:
    with contextlib.closing(Conversations(places().conversations)) as store:
        return [
            [turn.content for turn in store.read(heading.id).turns] for heading in store.headings()
        ]


def test_a_person_asks_sees_commands_and_comes_back(start: Start) -> None:
    terminal = start("--offline")
    terminal.see("/help")
    terminal.see("no far model")  # the status line
    terminal.write("What is the capital of France?\r")
    terminal.see("Paris")
    terminal.see(r"near, [\w.-]+: you are offline")
    terminal.write("/re")
    terminal.see("answer the last question again")  # what the completion says
    terminal.write("\x15two\x1b\rlines\r")  # Ctrl-U clears; Alt-Enter begins a line
    terminal.see(r"near, [\w.-]+: you are offline")
    assert terminal.leave() == 0
    assert kept()[0][:3] == ["What is the capital of France?", "Paris", "two\nlines"]

    again = start("--offline", "--continue")
    again.see("/help")
    again.write("\x1b[A")  # the last question, by the arrow
    again.see("lines")
    again.write("\x03/why\r")
    again.see("near · you are offline")  # of the answer before this run
    assert again.leave() == 0


def test_ctrl_c_stops_an_answer_and_keeps_it(
    start: Start, make_tiny_gguf: Callable[..., Path], tmp_path: Path
) -> None:
    model = make_tiny_gguf(tmp_path / "endless.gguf")
    # The likeliest tokens have no end; a drawn one may be it.
    terminal = start("--offline", "--model", str(model), "--max-tokens", "900000", "-t", "0")
    terminal.see("/help")
    terminal.see("no far model")
    terminal.write("hello\r")
    with contextlib.closing(Conversations(places().conversations)) as store:
        wait_until(lambda: bool(store.headings() and _written(store)))
    terminal.write("\x03")
    terminal.see("stopped")
    terminal.write("/why\r")
    terminal.see("you stopped the answer")
    assert terminal.leave() == 0
    with contextlib.closing(Conversations(places().conversations)) as store:
        turn = store.read(store.latest()).turns[1]
    assert turn.state == "stopped" and turn.content


def test_a_dumb_terminal_is_enough(start: Start) -> None:
    terminal = start("--offline", TERM="dumb")
    terminal.see("> ")
    terminal.write("What is the capital of France?\r")
    shown = terminal.see("Paris")
    assert "\x1b" not in shown
    terminal.write("/quit\r")
    terminal.see(pexpect.EOF)


async def test_the_first_message_that_would_leave_is_asked_about(start: Start) -> None:
    cloud = ScriptedEngine(("far", " away"))
    keys = places().keys  # a cloud of one's own, on the same machine
    async with serving(cloud, keys=server_keys(keys), devices=admitted(keys)) as server:
        terminal = start(
            NEARFAR_CLOUD_URL=server.endpoint,
            NEARFAR_POLICY_MIN_LOGPROB="0",
        )
        await asyncio.to_thread(terminal.see, "/help")
        await asyncio.to_thread(terminal.see, "far model")
        terminal.write("What is the capital of France?\r")
        await asyncio.to_thread(terminal.see, "30 bytes in all")
        await asyncio.to_thread(terminal.see, "do not ask again")
        await asyncio.to_thread(terminal.see, "answer near")  # the last of the choices
        assert cloud.requests == []
        terminal.write("a\r")
        await asyncio.to_thread(terminal.see, "far away")
        terminal.write("And of Italy?\r")
        await asyncio.to_thread(terminal.see, "far away")
        assert await asyncio.to_thread(terminal.leave) == 0
    assert len(cloud.requests) == 2
    assert 'privacy = "cloud_ok"' in places().config_file.read_text()


def _written(store: Conversations) -> bool:
    turns = store.read(store.latest()).turns
    return len(turns) == 2 and len(turns[1].content) > 20
