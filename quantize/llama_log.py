"""Log of llama.cpp, captured while one call runs: there is one log for the whole process."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def captured_log(heard: Callable[[str], None] | None = None) -> Iterator[list[str]]:
    """Collect what llama.cpp would print, and give the log back to whoever had it.

    `heard` is called with each piece as it comes.
    """
    import llama_cpp

    lines: list[str] = []

    def collect(level: int, text: bytes, user_data: ctypes.c_void_p) -> None:
        lines.append(text.decode("utf-8", "replace").strip())
        if heard:
            heard(lines[-1])

    callback = llama_cpp.llama_log_callback(collect)
    previous, data = llama_cpp.llama_log_callback(), ctypes.c_void_p()
    llama_cpp.llama_log_get(ctypes.byref(previous), ctypes.byref(data))
    llama_cpp.llama_log_set(callback, ctypes.c_void_p())
    try:
        yield lines
    finally:
        llama_cpp.llama_log_set(previous, data)


def last_error(lines: list[str]) -> str:
    """Return what llama.cpp said last about a failure, on one line."""
    # One message may have several lines, some of them only ornament.
    parts = [part.strip() for line in lines for part in line.splitlines()]
    signs = ("error", "failed", "missing")
    reasons = [line for line in parts if any(sign in line.lower() for sign in signs)]
    return reasons[0] if reasons else "no reason given"
