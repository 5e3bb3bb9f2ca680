"""Files: private ones written whole, temporary ones, paths as people type them, JSON from anyone.

A file that a full disk or a killed process left empty or cut short is worse than none: read as a
secret, it would let everybody in. So a secret is made by whoever is first, and read back by all.

Their names hold the number of the process that made them, so that whoever comes next can tell
what nobody will finish.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

from backbone.errors import NearfarError, cause

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
    the disk first; a cache that can tell a torn file may go without. Raises OSError where a device,
    a pipe or a folder stands there, which a file must not replace.
    """
    require_file(path)
    with scratch_file(path, "part") as beside:
        os.close(open_private(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode))
        yield beside
        if durable:
            _sync(beside)
        beside.replace(path)


def require_file(path: Path) -> None:
    """Raise OSError where a path means something other than a file, or nothing that can be."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        raise OSError("a folder is there" if stat.S_ISDIR(mode) else "a device or a pipe is there")


def require_outputs(*paths: Path | None) -> None:
    """Raise NearfarError where a file that is to be written could not be, before the long work."""
    for path in filter(None, paths):
        try:
            require_file(path)
        except OSError as error:
            raise NearfarError(
                f"{path} cannot be written ({cause(error)}); name another file"
            ) from None


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


_QUIET_S = 60.0  # a process on another machine, with the same disk, writes more often than that


@contextmanager
def scratch_file(beside: Path, suffix: str) -> Iterator[Path]:
    """Yield a name next to a file; whatever is left under it at the end is removed.

    What dead processes left beside the same file goes first: it may have gigabytes.
    """
    # A scratch file may have another one beside itself: ..model.gguf.71-a0.part.71-b1.bf16
    left = rf"\.?{re.escape(f'.{beside.name}.')}(\d+)(-\w+)?\.\w+(\.\d+(-\w+)?\.\w+)?"
    _take_left(beside.parent, re.compile(left))
    path = beside.with_name(f".{beside.name}.{os.getpid()}-{secrets.token_hex(4)}.{suffix}")
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


@contextmanager
def scratch_folder(kind: str) -> Iterator[Path]:
    """Yield a new private folder among the system's temporary ones, which is removed at the end.

    Those of the same kind that this user's dead processes left go first.
    """
    there = Path(tempfile.gettempdir())
    _take_left(there, re.compile(rf"nearfar-{re.escape(kind)}-(\d+)-\w+"))
    with tempfile.TemporaryDirectory(prefix=f"nearfar-{kind}-{os.getpid()}-") as folder:
        yield Path(folder)


def _take_left(folder: Path, name: re.Pattern[str]) -> None:
    with suppress(OSError):
        for path in folder.iterdir():
            found = name.fullmatch(path.name)
            if found and _is_left(path, int(found[1])):
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()


def _is_left(path: Path, pid: int) -> bool:
    stat = path.lstat()
    is_ours = not hasattr(os, "getuid") or stat.st_uid == os.getuid()
    return is_ours and not _is_alive(pid) and time.time() - stat.st_mtime > _QUIET_S


def _is_alive(pid: int) -> bool:
    import psutil

    return bool(psutil.pid_exists(pid))


def expanded(path: str | Path) -> Path:
    """Return the path with a leading `~` or `~name` as that user's folder.

    One of a user that is not there stays as it is typed, as shells leave it: pathlib raises.
    """
    return Path(os.path.expanduser(path))


def parse_json(text: str | bytes | bytearray) -> Any:
    """Return what a text of JSON says. Raises ValueError, also where it is nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
