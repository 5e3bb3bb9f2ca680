"""Temporary files and folders: gone with their process, or taken by a later one if it was killed.

Their names hold the number of the process that made them, so that whoever comes next can tell
what nobody will finish.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

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
    told = path.lstat()
    is_ours = not hasattr(os, "getuid") or told.st_uid == os.getuid()
    return is_ours and not _is_alive(pid) and time.time() - told.st_mtime > _QUIET_S


def _is_alive(pid: int) -> bool:
    import psutil

    return bool(psutil.pid_exists(pid))
