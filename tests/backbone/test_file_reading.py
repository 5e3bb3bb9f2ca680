"""What a person names as a file may have no end; it is never waited for, nor read into memory."""

from __future__ import annotations

import gzip
import os
import threading
from pathlib import Path

import pytest

from backbone.file_reading import read_bytes, read_text, read_unzipped

pytestmark = pytest.mark.skipif(os.name != "posix", reason="pipes and devices of POSIX")


def test_a_pipe_is_read_to_its_end_where_somebody_writes(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    held = os.open(pipe, os.O_RDWR)  # as the shell holds that of a substituted command
    sent = b"words " * 100_000

    def write() -> None:
        with os.fdopen(held, "wb") as out:
            out.write(sent)

    writer = threading.Thread(target=write)
    writer.start()
    assert read_bytes(pipe, 10_000_000) == sent
    writer.join()


@pytest.mark.parametrize("kind", ["pipe", "zeros", "folder", "sparse", "loop", "refused pipe"])
def test_what_may_never_end_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "it"
    if "pipe" in kind:
        os.mkfifo(path)
    elif kind == "zeros":
        path = Path("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    elif kind == "sparse":
        with path.open("wb") as file:
            file.truncate(5_000_000_000)
    else:
        path.symlink_to(path)
    with pytest.raises(OSError):
        read_text(path, 1_000_000, pipes=kind != "refused pipe")


def test_the_null_device_is_an_empty_file() -> None:
    assert read_bytes(Path(os.devnull), 10) == b""


def test_a_file_that_grows_is_read_no_further_than_allowed(tmp_path: Path) -> None:
    path = tmp_path / "it"
    path.write_bytes(b"x" * 100)
    assert len(read_bytes(path, 100)) == 100
    with pytest.raises(OSError, match="at most 99"):
        read_bytes(path, 99)


def test_what_unpacks_without_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "it.gz"
    path.write_bytes(gzip.compress(b"x" * 1_000_000))
    assert len(read_unzipped(path, 1_000_000)) == 1_000_000
    with pytest.raises(OSError, match="unpacks to more"):
        read_unzipped(path, 999_999)


@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_a_damaged_archive_is_an_error_of_the_file(tmp_path: Path, damage: str) -> None:
    whole = bytearray(gzip.compress(os.urandom(10_000)))
    path = tmp_path / "it.gz"
    if damage == "changed":
        whole[50:90] = bytes(40)
    path.write_bytes(whole[:-100] if damage == "cut" else whole)
    with pytest.raises(OSError):
        read_unzipped(path, 1_000_000)
