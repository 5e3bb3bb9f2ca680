"""A chat begins before its model is there, changes models within memory, and ends truthfully."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from backbone.errors import CheckpointError, NearfarError
from edge.chat.chat_setup import Opening
from edge.models.local_models import size_of
from edge.near.switch_model import ModelSwitch
from offload.engine import Engine
from offload.messages import Delta, Finish
from tests.offload.scripted import ScriptedEngine

ROOT = Path(__file__).parents[3]


class Keyboard:
    """A screen at which somebody sits: what is typed comes when the test says so."""

    def __init__(self) -> None:
        self.typed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.is_asking = False

    async def read(self) -> str:
        self.is_asking = True
        try:
            return await self.typed
        finally:
            self.is_asking = False

    def show(self, delta: Delta) -> None: ...
    def end(self, text: str, finish: Finish | None) -> None: ...
    def remark(self, text: str) -> None: ...
    def fail(self, text: str) -> None: ...

    async def choose(self, question: str, choices: Mapping[str, str]) -> str:
        return list(choices)[-1]


async def test_the_first_line_is_asked_for_before_the_model_is_loaded() -> None:
    keyboard, typed = Keyboard(), threading.Event()
    loop, asked_when_loaded = asyncio.get_running_loop(), list[bool]()

    def type_hello() -> None:
        keyboard.typed.set_result("hello")
        typed.set()

    def load() -> Engine:
        asked_when_loaded.append(keyboard.is_asking)
        loop.call_soon_threadsafe(type_hello)
        typed.wait()
        return ScriptedEngine()

    opening = Opening(load)
    assert await opening.meanwhile(keyboard) == "hello" and asked_when_loaded == [True]
    assert await opening.engine() is opening.loaded


async def test_a_model_that_cannot_be_loaded_takes_the_prompt_away() -> None:
    def load() -> Engine:
        raise CheckpointError("no such model; name another")

    keyboard = Keyboard()
    with pytest.raises(CheckpointError, match="name another"):
        await Opening(load).meanwhile(keyboard)
    assert not keyboard.is_asking


async def test_who_leaves_at_once_is_let_go() -> None:
    keyboard = Keyboard()
    keyboard.typed.set_exception(EOFError())
    assert await Opening(ScriptedEngine).meanwhile(keyboard) is None


class Shelf:
    """Models by name, and a note of what was opened and closed in which order."""

    def __init__(self, folder: Path, *, broken: str = "") -> None:
        self.folder, self.broken, self.notes = folder, broken, list[str]()
        for name in ("old", "new"):
            (folder / f"{name}.gguf").write_bytes(b"x" * 1000)
        self.engine: Engine = self.open("old")
        self.notes.clear()

    def open(self, name: str) -> Engine:
        self.notes.append(f"open {name}")
        if name == self.broken:
            raise CheckpointError("broken; fetch it again")
        return Noted(name, self.notes)


class Noted(ScriptedEngine):
    def __init__(self, name: str, notes: list[str]) -> None:
        super().__init__()
        self.name, self._notes = name, notes

    async def aclose(self) -> None:
        self._notes.append(f"close {self.name}")


def changing(shelf: Shelf, free: int) -> ModelSwitch:
    return ModelSwitch(shelf.open, shelf.folder, current="old", free_bytes=lambda: free)


@pytest.mark.parametrize(
    ("free", "notes"),
    [(10_000, ["open new", "close old"]), (500, ["close old", "open new"])],
)
async def test_the_old_model_makes_room_only_where_both_would_not_fit(
    tmp_path: Path, free: int, notes: list[str]
) -> None:
    shelf = Shelf(tmp_path)
    await changing(shelf, free).change(shelf, "new")
    assert shelf.notes == notes
    assert isinstance(shelf.engine, Noted) and shelf.engine.name == "new"


@pytest.mark.parametrize("free", [10_000, 500])
async def test_a_failed_change_leaves_the_old_model(tmp_path: Path, free: int) -> None:
    shelf = Shelf(tmp_path, broken="new")
    with pytest.raises(CheckpointError, match="broken"):
        await changing(shelf, free).change(shelf, "new")
    assert isinstance(shelf.engine, Noted) and shelf.engine.name == "old"
    assert shelf.notes[-1] != "close old"


async def test_a_wrong_name_frees_nothing(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    with pytest.raises(NearfarError):
        await changing(shelf, 500).change(shelf, "nowhere")
    assert shelf.notes == []


def test_all_parts_of_a_model_are_counted(tmp_path: Path) -> None:
    for n in (1, 2):
        (tmp_path / f"m-0000{n}-of-00002.gguf").write_bytes(b"x" * 10)
    assert size_of(tmp_path / "m-00001-of-00002.gguf") == 20


def chat(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nearfar", "chat", "--offline", *arguments]
    return subprocess.run(command, cwd=ROOT, input=stdin, capture_output=True, text=True)


Run = Callable[[], subprocess.CompletedProcess[str]]


@pytest.mark.parametrize(
    ("run", "status"),
    [
        (lambda: chat("--file", "/nope", "q"), 1),
        (lambda: chat(stdin="/file /nope\nhello\n"), 1),
        (lambda: chat("--model", "/nope.gguf", "q"), 1),
        (lambda: chat("What is 2 + 2?"), 0),
    ],
    ids=["file", "command", "model", "well"],
)
def test_through_a_pipe_the_exit_status_tells_whether_all_went_well(run: Run, status: int) -> None:
    done = run()
    assert done.returncode == status
    assert len(done.stderr.splitlines()) == status and "Traceback" not in done.stderr


def test_a_program_reads_a_failure_as_json() -> None:
    done = chat("--json", stdin="/file /nope\n")
    assert "check its name" in json.loads(done.stdout)["error"] and done.returncode == 1
