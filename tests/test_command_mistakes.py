"""What goes wrong at the command is one line with a remedy, and never a traceback."""

from __future__ import annotations

import errno
import json
import socket
import sys
from pathlib import Path

import pytest

import nearfar
from offload.pair import EDGE_MODEL
from tests.in_process import Run


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("ask", ""), "the prompt is empty"),
        (("ask", "   "), "the prompt is empty"),
        (("ask", "hi", "--model", "nowhere.gguf"), "nearfar models list"),
        (("ask", "word " * 2000), "context"),
        (("link", "ping"), "no far model is set up"),
        (("policy", "outbox", "--forget", "nosuch"), "no question 'nosuch' waits"),
        (("cloud", "serve", "--model", "nowhere"), "no folder"),
        (("bench", "hybrid", "nowhere.jsonl"), "does not exist"),
    ],
)
def test_a_mistake_gets_one_line_and_status_1(
    run: Run, arguments: tuple[str, ...], words: str
) -> None:
    status, out, err = run(*arguments)
    assert status == 1
    assert words in err and err.count("\n") == 1 and "Traceback" not in err
    assert out == ""


def test_with_json_an_error_is_a_document_too(run: Run) -> None:
    status, out, _ = run("ask", "", "--json")
    assert status == 1 and "empty" in json.loads(out)["error"]


def test_wrong_usage_is_status_2(run: Run) -> None:
    assert run("ask", "hi", "--nonsense")[0] == 2
    assert run("nonsense")[0] == 2


@pytest.mark.parametrize("damage", ["truncated", "no model", "a folder"])
def test_a_damaged_model_is_one_line(run: Run, tmp_path: Path, damage: str) -> None:
    path = tmp_path / "model.gguf"
    whole = EDGE_MODEL.read_bytes()
    if damage == "a folder":
        path.mkdir()
    else:
        path.write_bytes(whole[: len(whole) // 2] if damage == "truncated" else b"hello" * 100)
    status, _, err = run("ask", "hi", "--model", str(path))
    assert status == 1 and err.count("\n") == 1 and str(path) in err


def test_who_insists_on_a_cloud_that_is_not_set_up_is_told(run: Run) -> None:
    status, out, err = run("ask", "What is 17 + 25?", "--far")
    assert (status, out) == (1, "42\n")
    assert "no far model is set up" in err and "nearfar link join" in err and err.count("\n") == 1


def test_a_home_that_cannot_be_written_is_one_line(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("NEARFAR_HOME", str(tmp_path / "file"))
    status, out, err = run("link", "key")
    assert (status, out) == (1, "")
    assert "NEARFAR_HOME" in err and err.count("\n") == 1


def test_an_unknown_cloud_key_names_its_remedy(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEARFAR_CLOUD_URL", "tcp://192.0.2.1:7070")
    status, _, err = run("ask", "hi")
    assert status == 1 and "cloud.server_key" in err


def test_a_damaged_settings_file_is_one_line(run: Run, home: Path) -> None:
    (home / "config").mkdir()
    (home / "config" / "config.toml").write_text("[cloud]\nurl = 3\n")
    status, _, err = run("ask", "hi")
    assert status == 1 and "cloud.url" in err


def test_a_fault_of_our_own_is_one_line_that_says_how_to_see_more(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise ZeroDivisionError("a line\nand another")

    monkeypatch.setattr("edge.chat.welcome.greeting", fail)
    status, _, err = run()
    assert status == 1 and err.count("\n") == 1
    assert "ZeroDivisionError: a line" in err and "NEARFAR_TRACE=1" in err
    monkeypatch.setenv("NEARFAR_TRACE", "1")
    monkeypatch.setattr(sys, "argv", ["nearfar"])
    with pytest.raises(ZeroDivisionError):
        nearfar.main()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.EMFILE, "Too many open files"), "end other programs"),
        (PermissionError(13, "Permission denied", "/somewhere/else"), "name another"),
    ],
)
def test_what_the_system_refuses_is_one_line_with_a_remedy_that_fits(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: OSError, words: str
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr("edge.chat.welcome.greeting", fail)
    status, _, err = run()
    assert status == 1 and err.count("\n") == 1
    assert words in err and "NEARFAR_HOME" not in err


def test_a_full_disk_is_said_as_that(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("edge.chat.welcome.greeting", fail)
    status, _, err = run()
    assert status == 1 and "the disk is full" in err and "NEARFAR_HOME" in err


@pytest.mark.parametrize("command", ["serve", "assistant"])
def test_a_taken_port_is_told_once(run: Run, command: str) -> None:
    pytest.importorskip("uvicorn", reason="needs a web server")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        more = ("--no-open",) if command == "assistant" else ()
        status, _, err = run(command, "--port", str(port), *more)
    assert status == 1 and err.count("\n") == 1
    assert err.lower().count("address already in use") == 1 and err.count(str(port)) == 1


def test_a_key_that_begins_with_a_dash_is_no_option(run: Run) -> None:
    key = f"-{'0' * 39}"
    status, _, err = run("link", "allow", "device", key)
    assert (status, err) == (0, "")
    assert key in run("link", "list")[1]
