"""A file that cannot be written names what is really in the way, and what would mend it."""

from __future__ import annotations

import errno
import json
import os
import sqlite3
import sys
from pathlib import Path

import pytest

import nearfar
from offload.config.obstacles import obstacle

NOT_A_FOLDER = NotADirectoryError(errno.ENOTDIR, "Not a directory")
REFUSED = PermissionError(errno.EACCES, "Permission denied")


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "home").touch()
    told = obstacle(tmp_path / "home" / "data" / "a.sqlite", NOT_A_FOLDER)
    assert told.startswith(f"{tmp_path / 'home'} is a file where a folder must be; move it away")


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
def test_a_link_to_nothing_is_named(tmp_path: Path) -> None:
    (tmp_path / "home").symlink_to(tmp_path / "gone")
    told = obstacle(tmp_path / "home" / "data", FileExistsError(errno.EEXIST, "File exists"))
    assert f"is a link to {tmp_path / 'gone'}, which is not there" in told


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space"), sqlite3.OperationalError("database or disk is full")],
)
def test_a_full_disk_is_called_full(tmp_path: Path, error: Exception) -> None:
    assert obstacle(tmp_path / "a", error).startswith(f"the disk of {tmp_path} is full; free some")


def test_a_disk_without_a_free_byte_is_full_whatever_the_library_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 0})())
    told = obstacle(tmp_path / "a", sqlite3.OperationalError("unable to open database file"))
    assert "is full" in told


def test_a_disk_that_is_only_read_is_called_so(tmp_path: Path) -> None:
    told = obstacle(tmp_path / "a", OSError(errno.EROFS, "Read-only file system"))
    assert f"the disk of {tmp_path} can only be read; set NEARFAR_HOME" in told


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no owners by number here")
def test_whose_a_folder_is_stands_beside_the_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = obstacle(tmp_path / "a" / "b", REFUSED)
    assert f"{tmp_path} is yours and may not be written; change its permissions" in mine
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 4321)
    assert f"{tmp_path} belongs to " in obstacle(tmp_path / "a" / "b", REFUSED)


def test_sqlites_own_words_are_no_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says "unable to open database file" of a folder that may not be written."""
    monkeypatch.setattr(os, "access", lambda *_: False)
    told = obstacle(tmp_path / "a", sqlite3.OperationalError("unable to open database file"))
    assert "may not be written" in told and "database" not in told


def test_without_owners_and_file_systems_of_posix_it_is_told_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "geteuid", raising=False)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1})())
    monkeypatch.delattr(os, "statvfs", raising=False)
    assert f"{tmp_path} may not be written by you" in obstacle(tmp_path / "a", REFUSED)


WRITING = [
    ("chat", "hi"),
    ("config", "set", "edge.num_threads", "1"),
    ("conversations", "list"),
    ("conversations", "rename", "ab", "title"),
    ("models", "alias", "fast", "embedded"),
    ("link", "key"),
    ("link", "list"),
    ("link", "invite", "pi", "tcp://127.0.0.1:7070"),
    ("policy", "ledger"),
    ("policy", "outbox", "--forget", "all"),
    ("assistant", "--no-open", "--port", "0"),
]


@pytest.mark.parametrize("arguments", WRITING, ids=" ".join)
def test_every_command_that_writes_names_the_file_in_the_way(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
) -> None:
    if arguments[0] == "assistant":
        pytest.importorskip("uvicorn", reason="the assistant needs a web server")
    home = tmp_path / "home"
    home.touch()
    monkeypatch.setenv("NEARFAR_HOME", str(home))
    monkeypatch.setattr(sys, "argv", ["nearfar", *arguments])
    with pytest.raises(SystemExit) as ended:
        nearfar.main()
    told = capsys.readouterr().err
    assert ended.value.code == 1 and told.count("\n") == 1
    assert f"{home} is a file where a folder must be; move it away" in told


def test_an_answer_goes_on_without_its_ledger_and_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "home").touch()
    monkeypatch.setenv("NEARFAR_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(sys, "argv", ["nearfar", "ask", "What is 17 + 25?", "--json"])
    with pytest.raises(SystemExit) as ended:
        nearfar.main()
    assert ended.value.code == 0
    assert json.loads(capsys.readouterr().out)["answer"] == "42"


def test_the_doctor_names_what_is_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edge.doctor.doctor import examine

    (tmp_path / "home").touch()
    monkeypatch.setenv("NEARFAR_HOME", str(tmp_path / "home"))
    assert any("is a file where a folder must be" in each for each in examine().problems)
