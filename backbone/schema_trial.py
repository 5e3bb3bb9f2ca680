"""Schema trial: compiles a JSON schema first in a process of its own, which it may hold or end.

llguidance bounds its steps, but not all of a compilation: a hundred characters (patterns that must
all hold, a large multipleOf) can take minutes and gigabytes, and one number overflowed its stack. A
thread cannot be ended. A process can, at its limits or as soon as nobody waits any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from backbone.errors import SchemaRefusal

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions as Layout

_STRICT: Layout = {"whitespace_flexible": False, "lenient": False, "coerce_one_of": False}
COMPACT: Layout = {**_STRICT, "item_separator": ", ", "key_separator": ": "}
# For answers that begin in another layout: some space, or a new line and its indentation.
LOOSE: Layout = {**_STRICT, "whitespace_pattern": r"[ \t]{1,8}|\r?\n[ \t]{0,40}"}
LIMITS: dict[str, Any] = {
    "max_lexer_states": 50_000,  # of an answer's pattern; about 2 kB each
    "verbose_errors": False,  # errors that quote no schema
}

_CPU_S = 2
_WAIT_S = 20.0  # where others use the cores, or a process's time cannot be limited
_BYTES = 1 << 30
_AT_ONCE = 2
_POLL_S = 0.02
_MAX_KNOWN = 256

TOO_COMPLEX = f"json_schema cannot be compiled within {_CPU_S} s and 1 GiB; simplify it"
_ANY_OBJECT = '{"type": "object"}'  # what `json_object` asks for


class TrialCancelled(Exception):
    """A trial that was cancelled: nobody waits for the schema any more."""


class SchemaTrials:
    """Trials of schemas: which compile within bounds; the newest verdicts are remembered."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[bytes, int] = OrderedDict({_name(_ANY_OBJECT): 0})

    async def begin(self, schema: str) -> None:
        """Wait for a schema's verdict, in no thread that others need; who is cancelled ends it.

        Errors as require_survival().
        """
        if _name(schema) in self._known:
            return
        loop, gone = asyncio.get_running_loop(), threading.Event()
        try:
            await loop.run_in_executor(_threads, self.require_survival, schema, gone.is_set)
        finally:
            gone.set()

    def require_survival(self, schema: str, ended: Callable[[], object]) -> None:
        """Raise SchemaRefusal for one that would hold this process, TrialCancelled once `ended`."""
        name = _name(schema)
        status = self._known.get(name)
        if status is None:
            status = _status_of_child(schema, ended)
            if status is None:
                raise SchemaRefusal(
                    f"json_schema was not compiled within {_WAIT_S:.0f} s; ask again"
                )
            self._keep(name, status)
        if status != 0:
            raise SchemaRefusal(TOO_COMPLEX)

    def _keep(self, name: bytes, status: int) -> None:
        with self._lock:
            self._known[name] = status
            if len(self._known) > _MAX_KNOWN:
                self._known.popitem(last=False)


_places = threading.BoundedSemaphore(_AT_ONCE)
_threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="nearfar-schema")


def _name(schema: str) -> bytes:
    return hashlib.sha256(schema.encode()).digest()


def _status_of_child(schema: str, ended: Callable[[], object]) -> int | None:
    """Return how the compilation ended, 0 where it did well; None where there was no time for it.

    Raises TrialCancelled.
    """
    while not _places.acquire(timeout=_POLL_S):
        if ended():
            raise TrialCancelled
    try:
        return _compiled_in_child(schema, ended)
    finally:
        _places.release()


def _compiled_in_child(schema: str, ended: Callable[[], object]) -> int | None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-m", __name__],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as child:
        try:
            return _awaited(child, schema.encode(), ended)
        finally:
            child.kill()  # one that has ended is left alone


def _awaited(
    child: subprocess.Popen[bytes], schema: bytes, ended: Callable[[], object]
) -> int | None:
    until = time.monotonic() + _WAIT_S
    given: bytes | None = schema
    while time.monotonic() < until:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.communicate(given, timeout=_POLL_S)
            return child.returncode
        given = None  # communicate() goes on with what it was given first
        if ended():
            raise TrialCancelled
    return None


def main() -> int:
    """Compile the schema on stdin within the limits; a refusal by llguidance is a success."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (_CPU_S, _CPU_S))
        resource.setrlimit(resource.RLIMIT_AS, (_BYTES, _BYTES))
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer

    with contextlib.suppress(ValueError):
        grammar = LLMatcher.grammar_from_json_schema(sys.stdin.read(), overrides=COMPACT)
        LLMatcher(LLTokenizer("byte"), grammar, log_level=0, limits=LLParserLimits(**LIMITS))
    return 0


if __name__ == "__main__":
    sys.exit(main())
