"""Private files: written whole or not at all, and secrets that all who ask at once agree on."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from backbone import files
from backbone.errors import NearfarError
from backbone.files import (
    SecretDamaged,
    atomic_write,
    kept_secret,
    require_outputs,
    write_new,
)

NUM_AT_ONCE = 16


def _kept(path: Path, make: bytes = b"0123456789abcdef") -> bytes:
    return kept_secret(path, lambda: make, lambda content: len(content) == 16)


def test_a_write_replaces_the_whole_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    atomic_write(path, b"a long first content")
    atomic_write(path, b"second")
    assert not write_new(path, b"third")
    assert path.read_bytes() == b"second"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such bits")
def test_what_is_written_is_private(tmp_path: Path) -> None:
    atomic_write(tmp_path / "one", b"x")
    write_new(tmp_path / "two", b"x")
    assert [path.stat().st_mode & 0o777 for path in tmp_path.iterdir()] == [0o600, 0o600]


@pytest.mark.parametrize("name", ["fsync", "open"])
def test_a_full_disk_leaves_the_old_file_and_no_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    atomic_write(tmp_path / "old", b"old")
    monkeypatch.setattr(files.os, name, full)
    with pytest.raises(OSError, match="No space"):
        atomic_write(tmp_path / "old", b"new")
    with pytest.raises(OSError, match="No space"):
        _kept(tmp_path / "secret")
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert (tmp_path / "old").read_bytes() == b"old"


def test_all_who_ask_at_once_get_the_same_secret(tmp_path: Path) -> None:
    path, found = tmp_path / "keys" / "secret", []
    barrier = threading.Barrier(NUM_AT_ONCE)

    def ask(number: int) -> None:
        barrier.wait()
        found.append(_kept(path, f"{number:016d}".encode()))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(NUM_AT_ONCE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == NUM_AT_ONCE and set(found) == {path.read_bytes()}


def test_processes_that_start_at_once_get_the_same_token(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "assistant.token"
    code = (
        "import pathlib, sys; from edge.assistant.access import kept_token; "
        "sys.stdin.readline(); print(kept_token(pathlib.Path(sys.argv[1])))"
    )
    starts = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for _ in range(4)
    ]
    for start in starts:  # all wait at the same line
        assert start.stdin is not None
        start.stdin.write(b"\n")
        start.stdin.flush()
    tokens = {start.communicate()[0].strip() for start in starts}
    assert tokens == {path.read_bytes()} and len(tokens.pop()) >= 32


@pytest.mark.parametrize("content", [b"", b"short", b"0123456789abcdef and more"])
def test_a_secret_that_is_not_whole_is_refused_and_left_alone(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "secret"
    atomic_write(path, content)
    with pytest.raises(SecretDamaged, match="secret is damaged; delete it"):
        _kept(path)
    assert path.read_bytes() == content


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such bits")
def test_a_secret_that_others_may_read_is_refused(tmp_path: Path) -> None:
    _kept(tmp_path / "secret")
    (tmp_path / "secret").chmod(0o640)
    with pytest.raises(SecretDamaged, match="chmod 600"):
        _kept(tmp_path / "secret")


@pytest.mark.skipif(os.name != "posix", reason="pipes of POSIX")
@pytest.mark.parametrize("kind", ["a pipe", "a folder", "a loop of links"])
def test_only_a_file_is_replaced_by_a_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "it"
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a folder":
        path.mkdir()
    else:
        path.symlink_to(path)
    before = path.lstat().st_mode
    with pytest.raises(OSError):
        atomic_write(path, b"new")
    with pytest.raises(NearfarError, match="cannot be written"):
        require_outputs(None, tmp_path / "free", path)
    assert path.lstat().st_mode == before
    assert list(tmp_path.iterdir()) == [path]
