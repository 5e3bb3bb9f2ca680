"""Atomic writes of files, and secrets kept in private ones: no file is ever seen half written.

A file that a full disk or a killed process left empty or cut short is worse than none: read as a
secret, it would let everybody in. So a secret is made by whoever is first, and read back by all.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

from backbone.errors import NearfarError
from backbone.temporary_files import scratch_file

# Opened without it, a file on Windows has every line feed written as two characters.
_BINARY = cast(int, getattr(os, "O_BINARY", 0))

PRIVATE = 0o600
SHARED = 0o666  # less what the umask takes away


class SecretDamaged(NearfarError):
    """A file that should hold a secret and holds none that is whole."""


def open_private(path: str | os.PathLike[str], flags: int, mode: int = PRIVATE) -> int:
    """Open a file as `os.open` does, for bytes and, if it is made here, for its owner alone."""
    return os.open(path, flags | _BINARY, mode)


def make_private(folder: Path) -> None:
    """Make a folder that only its owner may enter, or make it so."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)


def atomic_write(path: Path, content: bytes, *, mode: int = PRIVATE) -> None:
    """Replace a file, or make it; whoever reads it sees the old content or all of the new."""
    with replacement(path, mode=mode) as beside:
        beside.write_bytes(content)


@contextlib.contextmanager
def replacement(path: Path, *, mode: int = PRIVATE, durable: bool = True) -> Iterator[Path]:
    """Yield an empty file beside `path`, to be written; it takes the place of `path` at the end.

    If the block raises, `path` stays as it was, and nothing is left beside it. `durable` waits for
    the disk first; a cache that can tell a torn file may go without.
    """
    with scratch_file(path, "part") as beside:
        os.close(open_private(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode))
        yield beside
        if durable:
            _sync(beside)
        beside.replace(path)


def write_new(path: Path, content: bytes) -> bool:
    """Make a file only its owner may read; False where there is one, which stays as it is."""
    with scratch_file(path, "new") as beside:
        os.close(open_private(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        beside.write_bytes(content)
        _sync(beside)
        try:
            os.link(beside, path)  # unlike a rename, fails where another process was first
        except FileExistsError:
            return False
    return True


def kept_secret(path: Path, make: Callable[[], bytes], is_whole: Callable[[bytes], bool]) -> bytes:
    """Return the secret in a file, made there at the first call; all who ask at once get the same.

    Raises SecretDamaged where `is_whole` does not accept what stands there, or others may read it.
    """
    if not path.exists():
        make_private(path.parent)
        write_new(path, make())
    # Windows has no such bits: who may read is what the person's own folder says.
    if os.name == "posix" and path.stat().st_mode & 0o077:
        raise SecretDamaged(f"others may read {path}; run: chmod 600 {path}")
    content = path.read_bytes()
    if not is_whole(content):
        raise SecretDamaged(f"{path} is damaged; delete it, and a new one is made")
    return content


def _sync(path: Path) -> None:
    with path.open("rb+") as file:  # Windows syncs only what is open for writing
        os.fsync(file.fileno())
