"""Private files written whole: beside themselves, synced and renamed, so that none is ever half.

A file that a full disk or a killed process left empty or cut short is worse than none: read as a
secret, it would let everybody in. So a secret is made by whoever is first, and read back by all.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

from backbone.errors import NearfarError

# Opened without it, a file on Windows has every line feed written as two characters.
_BINARY = cast(int, getattr(os, "O_BINARY", 0))


class SecretDamaged(NearfarError):
    """A file that should hold a secret and holds none that is whole."""


def open_private(path: str | os.PathLike[str], flags: int, mode: int = 0o600) -> int:
    """Open a file as `os.open` does, for bytes and, if it is made here, for its owner alone."""
    return os.open(path, flags | _BINARY, mode)


def make_private(folder: Path) -> None:
    """Make a folder that only its owner may enter, or make it so."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)


def write_whole(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Replace a file, or make it; whoever reads it sees the old content or all of the new."""
    with _beside(path, content, mode) as beside:
        beside.replace(path)


def write_new(path: Path, content: bytes) -> bool:
    """Make a file only its owner may read; False where there is one, which stays as it is."""
    with _beside(path, content, 0o600) as beside:
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


@contextlib.contextmanager
def _beside(path: Path, content: bytes, mode: int) -> Iterator[Path]:
    """Write a file beside another, down to the disk, and leave none there at the end."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = open_private(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield beside
    finally:
        beside.unlink(missing_ok=True)
