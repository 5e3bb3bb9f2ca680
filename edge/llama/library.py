"""llama.cpp library: imported once on first use, with its log kept instead of printed."""

from __future__ import annotations

import ctypes
import functools
import importlib
import importlib.util
import sys
import types
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from backbone.errors import NearfarError
from edge.device.llama_build import require_cpu

_WARN, _ERROR, _CONTINUE = 3, 4, 5  # ggml_log_level
_MAX_REASON = 200  # characters


class NoLlamaCpp(NearfarError):
    """The near runtime for GGUF files is not installed."""


class Log:
    """Log of llama.cpp's newest warnings and errors, for the message a person reads."""

    def __init__(self, max_lines: int = 64) -> None:
        self._lines: deque[tuple[int, str]] = deque(maxlen=max_lines)
        self._level = 0
        self._listener: list[str] | None = None

    def add(self, level: int, text: str) -> None:
        """Take one piece of log text; level 5 continues the line before it."""
        if self._listener is not None:
            self._listener.append(text)
        if level == _CONTINUE:
            if self._level >= _WARN and self._lines:
                kept_level, line = self._lines.pop()
                self._lines.append((kept_level, line + text))
            return
        self._level = level
        if level >= _WARN:
            self._lines.append((level, text))

    @contextmanager
    def listening(self) -> Iterator[list[str]]:
        """Collect all lines, information too, for as long as the block lasts."""
        self.clear()
        lines: list[str] = []
        self._listener = lines
        try:
            yield lines
        finally:
            self._listener = None

    def clear(self) -> None:
        """Forget everything, so that what follows belongs to the next call."""
        self._lines.clear()
        if _callbacks:  # whoever imports the package around the binding takes the log for itself
            llama().llama_log_set(_callbacks[-1], ctypes.c_void_p(0))

    def errors(self) -> list[str]:
        """Return the error lines, oldest first, without the names of llama.cpp's functions."""
        lines = (line.strip() for level, line in self._lines if level == _ERROR)
        return [line.split(": ", 1)[-1] for line in lines if line]

    def reason(self) -> str:
        """Return the one line that says most: the first error, or that there is none.

        It may quote a damaged file, so only what can be printed is left of it.
        """
        errors = self.errors()
        if not errors:
            return "no reason given"
        line = errors[0].removeprefix("error loading model: ")[:_MAX_REASON]
        return "".join(char if char.isprintable() else "?" for char in line)


log = Log()


@functools.cache
def llama() -> Any:
    """Return the low-level module `llama_cpp.llama_cpp`, with its log turned to `log`."""
    llama_cpp = _low_level()
    llama_cpp.llama_log_set(_keep_callback(llama_cpp), ctypes.c_void_p(0))
    require_cpu(bytes(llama_cpp.llama_print_system_info()).decode())
    llama_cpp.llama_backend_init()
    return llama_cpp


def _low_level() -> Any:
    """Import `llama_cpp.llama_cpp` alone: the package around it takes longer than all of this.

    Its templates, caches and servers are not used here; whoever imports the package later gets
    all of it.
    """
    found = importlib.util.find_spec("llama_cpp")
    if found is None and "llama_cpp" not in sys.modules:
        raise NoLlamaCpp(
            "llama.cpp is not installed here: install a C++ compiler and then `pip install "
            "llama-cpp-python`, or set edge.server to a llama-server that runs (`nearfar config "
            "set edge.server http://127.0.0.1:8081`), or ask a cloud with --far"
        )
    if "llama_cpp" in sys.modules or found is None or not found.submodule_search_locations:
        return importlib.import_module("llama_cpp.llama_cpp")
    package = types.ModuleType("llama_cpp")
    package.__path__ = list(found.submodule_search_locations)
    sys.modules["llama_cpp"] = package
    try:
        return importlib.import_module("llama_cpp.llama_cpp")
    finally:
        del sys.modules["llama_cpp"]


def _keep_callback(llama_cpp: Any) -> object:
    def write(level: int, text: bytes | None, _user_data: object) -> None:
        log.add(level, (text or b"").decode("utf-8", "replace"))

    # llama.cpp holds the bare pointer for as long as the process lives.
    _callbacks.append(llama_cpp.llama_log_callback(write))
    return _callbacks[-1]


_callbacks: list[object] = []
