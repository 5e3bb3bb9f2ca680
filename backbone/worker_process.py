"""Worker process: a stranger's file or program is read in one, which ends at its bounds."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parent.parent
# What Python needs to start and to find its packages; no keys or tokens.
_KEPT = ("PATH", "PYTHON", "VIRTUAL_ENV", "HOME", "APPDATA", "SYSTEMROOT", "TZ", "LANG", "LC_")


def start_worker(module: str) -> subprocess.Popen[bytes]:
    """Start `python -m module` with pipes to it, and return at once. Raises OSError."""
    kept = {name: text for name, text in os.environ.items() if name.upper().startswith(_KEPT)}
    apart: dict[str, Any] = (
        {"creationflags": getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)}
        if sys.platform == "win32"
        else {"start_new_session": True}  # Ctrl-C is for the one who asks
    )
    return subprocess.Popen(
        [sys.executable, "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=_ROOT,
        env=kept,
        **apart,
    )


@contextlib.contextmanager
def limited_time(cpu_s: float) -> Iterator[None]:
    """End this process where the block computes for longer, wherever in it that is."""
    try:
        from signal import ITIMER_PROF, setitimer
    except ImportError:  # Windows: there the parent's clock alone ends it
        yield
        return
    setitimer(ITIMER_PROF, cpu_s)  # its signal is not handled, and so ends the process
    try:
        yield
    finally:
        setitimer(ITIMER_PROF, 0)


def limit_memory(num_bytes: int) -> None:
    """Let this process take so much memory beyond what it has now, and write no core file."""
    try:
        import resource

        with open("/proc/self/statm") as file:
            held = int(file.read().split()[0]) * resource.getpagesize()
    except (ImportError, OSError):  # not Linux: only the time is limited there
        return
    limit = held + num_bytes
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard == resource.RLIM_INFINITY or hard > limit:
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
