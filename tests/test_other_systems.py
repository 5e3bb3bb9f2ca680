"""What Windows and macOS lack is never needed; the platform is feigned here, not met."""

from __future__ import annotations

import ast
import asyncio
import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import nearfar_command
from backbone.files import open_private
from backbone.stop_signals import on_signals
from edge.llama.trial_load import was_killed
from offload.config.file_lock import lock, lock_a_byte
from offload.config.settings_sources import change_settings
from offload.egress.outbox import Outbox
from offload.link.keys import load_or_make

ROOT = Path(__file__).parents[1]
# Modules that Windows does not have; none may be imported where a module is.
POSIX_ONLY = {"fcntl", "grp", "pty", "pwd", "resource", "syslog", "termios", "tty"}
COMMANDS = """
import sys
import asyncio, httpx, msgspec, numpy, psutil, rich.console, tomlkit, typer, zmq, llama_cpp
import prompt_toolkit, platformdirs, multiprocessing.connection
for name in {missing!r}:
    sys.modules[name] = None  # so that importing it fails
sys.platform = "win32"
class Locking:
    LK_LOCK, LK_NBLCK = 1, 2
    @staticmethod
    def locking(*_): pass
sys.modules["msvcrt"] = Locking
import offload.config.file_lock
import edge.cli, edge.chat.ask, edge.chat.chat_setup, edge.models.cli, edge.doctor.doctor
import edge.conversations.cli, offload.egress.outbox, offload.link.client
import offload.egress.ledger.ledger
import offload.hybrid.hybrid, offload.config.obstacles, nearfar
print("imported")
"""


def test_no_module_needs_what_windows_lacks_when_it_is_imported() -> None:
    found = []
    for room in ("backbone", "offload", "engine", "edge", "serve", "quantize"):
        for path in (ROOT / room).rglob("*.py"):
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.Import):
                    names = {alias.name for alias in node.names}
                    found += [f"{path.name}: {name}" for name in names & POSIX_ONLY]
    assert found == []


def test_the_commands_import_where_posix_modules_are_missing() -> None:
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS.format(missing=sorted(POSIX_ONLY - {"termios", "tty"}))],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "imported", done.stderr


def held(path: Path) -> int:
    return open_private(path, os.O_RDWR | os.O_CREAT)


def test_a_lock_is_had_by_one_and_given_back_by_closing(tmp_path: Path) -> None:
    first, second = held(tmp_path / "turn"), held(tmp_path / "turn")
    assert lock(first, wait=True) and not lock(second, wait=False)
    os.close(first)
    assert lock(second, wait=False)
    os.close(second)


class Taken:
    """Windows' lock of a byte: refuses a few times, as where another process has it."""

    def __init__(self, refusals: int) -> None:
        self.refusals = refusals
        self.places: list[int] = []

    def __call__(self, descriptor: int, mode: int, count: int) -> None:
        self.places.append(os.lseek(descriptor, 0, os.SEEK_CUR))
        if self.refusals:
            self.refusals -= 1
            raise PermissionError(13, "Permission denied")


def test_windows_lock_waits_beyond_its_ten_tries(tmp_path: Path) -> None:
    descriptor, locking = held(tmp_path / "turn"), Taken(refusals=3)
    assert lock_a_byte(descriptor, locking, wait=True)
    assert locking.places == [1 << 30] * 4, "always the same byte, behind what is written"
    assert not lock_a_byte(descriptor, Taken(refusals=1), wait=False)
    os.close(descriptor)


def test_a_key_is_read_where_files_have_no_bits_for_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = load_or_make(tmp_path, "device")
    (tmp_path / "device.json").chmod(0o666)  # as Windows tells of every file
    monkeypatch.setattr("backbone.files.os.name", "nt")
    assert load_or_make(tmp_path, "device").public == made.public


def test_a_settings_file_has_the_same_bytes_everywhere(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes("# häufig\n[edge]\n".encode())
    change_settings(path, "edge", {"model": "fast"})
    assert path.read_bytes() == '# häufig\n[edge]\nmodel = "fast"\n'.encode()


def test_the_outbox_still_lets_one_process_ask(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox" / "waiting.json")
    with outbox._claim() as mine:
        assert not mine, "nothing waits, so there is no turn to take"


@pytest.mark.parametrize("has_handlers", [True, False])
async def test_a_signal_reaches_the_loop(
    has_handlers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, heard = asyncio.get_running_loop(), asyncio.Event()

    def refuse(*_: Any) -> None:
        raise NotImplementedError  # as Windows' loops do

    if not has_handlers:
        monkeypatch.setattr(loop, "add_signal_handler", refuse)
    before = signal.getsignal(signal.SIGINT)
    with on_signals(heard.set, signal.SIGINT):
        signal.raise_signal(signal.SIGINT)
        await asyncio.wait_for(heard.wait(), 30)
    assert signal.getsignal(signal.SIGINT) == before


async def test_outside_the_main_thread_signals_are_left_alone() -> None:
    def inside() -> str:
        async def run() -> str:
            with on_signals(lambda: None, signal.SIGINT):
                return "ran"

        return asyncio.run(run())

    assert await asyncio.to_thread(inside) == "ran"


class Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("kind", "written"), [(io.TextIOWrapper, "你好".encode()), (Terminal, b"??")]
)
def test_what_a_code_page_lacks_never_stops_an_answer(
    kind: Callable[..., io.TextIOWrapper], written: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = io.BytesIO()
    out = kind(raw, encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", out)
    nearfar_command._suit_the_system()
    out.write("你好")
    out.flush()
    assert raw.getvalue() == written
    monkeypatch.undo()


@pytest.mark.parametrize(
    ("status", "killed"), [(-11, True), (0xC0000005, True), (0xC0000409, True), (1, False)]
)
def test_a_model_that_kills_its_reader_is_known_on_windows_too(status: int, killed: bool) -> None:
    assert was_killed(status) is killed
