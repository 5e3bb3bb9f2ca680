"""Obstacles to a file that nearfar reads or writes, each with its remedy."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from pathlib import Path

from backbone.errors import cause

_FULL = (errno.ENOSPC, errno.EDQUOT)
_ELSE = "set NEARFAR_HOME to another folder"


def obstacle(path: Path, error: BaseException) -> str:
    """Return why a file of nearfar's own cannot be used, and the remedy behind a semicolon.

    The system's words name the file that was asked for ("File exists", "unable to open database
    file"); looked for here is the folder, the link, the disk or the owner that is really meant.
    """
    there = _nearest(path)
    if there.is_symlink() and not there.exists():
        return f"{there} is a link to {os.readlink(there)}, which is not there; mend it, or {_ELSE}"
    if there != path and not there.is_dir():
        return f"{there} is a file where a folder must be; move it away, or {_ELSE}"
    if there == path and there.is_dir():
        return f"{there} is a folder where a file must be; move it away, or {_ELSE}"
    if _is_full(there, error):
        return f"the disk of {there} is full; free some, or {_ELSE}"
    if _is_read_only(there, error):
        return f"the disk of {there} can only be read; {_ELSE}"
    if _is_refused(there, error):
        return f"{there} {_belongs(there)}; change its permissions, or {_ELSE}"
    if isinstance(error, sqlite3.Error) and "disk I/O" in str(error):
        return f"the disk of {there} takes nothing more; free some or mend it, or {_ELSE}"
    return f"{cause(error)}; mend {there}, or {_ELSE}"


def _nearest(path: Path) -> Path:
    """Return the path itself or the nearest folder above it that is there, even as a dead link."""
    return next((each for each in (path, *path.parents) if os.path.lexists(each)), path)


def _is_full(there: Path, error: BaseException) -> bool:
    if getattr(error, "errno", None) in _FULL:
        return True
    # SQLite says so in its own words, or cannot even open what lies beside the file.
    is_full = isinstance(error, sqlite3.Error) and "full" in str(error)
    return is_full or shutil.disk_usage(there).free == 0


def _is_read_only(there: Path, error: BaseException) -> bool:
    if getattr(error, "errno", None) == errno.EROFS:
        return True
    if not hasattr(os, "statvfs"):  # Windows
        return False
    return bool(os.statvfs(there).f_flag & os.ST_RDONLY)


def _is_refused(there: Path, error: BaseException) -> bool:
    if getattr(error, "errno", None) in (errno.EACCES, errno.EPERM):
        return True
    wanted = os.W_OK | os.X_OK if there.is_dir() else os.W_OK | os.R_OK
    folder = there if there.is_dir() else there.parent
    return not (os.access(there, wanted) and os.access(folder, os.W_OK | os.X_OK))


def _belongs(there: Path) -> str:
    """Say whose a file is, where that is the reason."""
    if not hasattr(os, "geteuid"):  # Windows
        return "may not be written by you"
    owner = there.stat().st_uid
    if owner == os.geteuid():
        return "is yours and may not be written"
    return f"belongs to {_name(owner)} and may not be written by you"


def _name(uid: int) -> str:
    import pwd  # not on Windows

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"
