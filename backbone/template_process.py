"""Template process: renders one chat template, and is kept between renders."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from backbone.errors import CheckpointError, TemplateRefusal
from backbone.worker_process import start_worker

MAX_WAIT_S = 30.0  # by the clock; the process itself counts what it computes, and ends sooner
_INSTEAD = "use another model, or ask with a plain prompt"


@lru_cache(maxsize=8)
def process_of(template: str) -> TemplateProcess:
    """Return the process that renders this template, started now where there is none yet."""
    return TemplateProcess(template)


class TemplateProcess:
    """Process of one template: a render that takes too much ends it, and the next starts another.

    Starting it waits for nothing, so that it gets ready while a model is loaded.
    """

    def __init__(self, template: str) -> None:
        self._template = template
        self._lock = threading.Lock()
        self._process = _start()

    def render(self, variables: Mapping[str, Any]) -> str:
        """Return the text. Raises TemplateRefusal and CheckpointError, as chat_template.render."""
        with self._lock:
            reply = self._ask(_line(variables))
        if "refused" in reply:
            raise TemplateRefusal(
                f"the model's chat template cannot take this conversation ({reply['refused']}); "
                "change the messages, or ask with a plain prompt"
            )
        if "error" in reply:
            raise _cannot(reply["error"])
        return reply["text"]

    def _ask(self, line: bytes) -> dict[str, str]:
        running = self._running()
        clock = threading.Timer(MAX_WAIT_S, running.process.kill)
        clock.start()
        try:
            answered = running.exchange(self._template, line)
        finally:
            clock.cancel()
        if not answered:
            raise self._ended(running)
        reply: dict[str, str] = json.loads(answered)
        return reply

    def _running(self) -> _Running:
        if self._process.process.poll() is not None:
            self._process = _start()
        return self._process

    def _ended(self, running: _Running) -> CheckpointError:
        if running.process.wait() > 0:
            return CheckpointError(
                "the process that renders chat templates cannot run here; see that "
                f"`{sys.executable} -m backbone.template_worker` starts"
            )
        return _cannot("it takes too much time or memory")


class _Running:
    """A started process, and whether it knows its template yet."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self._knows_template = False
        self._end = weakref.finalize(self, _end, process)  # at exit, too

    def exchange(self, template: str, line: bytes) -> bytes:
        """Return the answer to a line; empty where the process ended instead."""
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None and stdout is not None, "both are pipes"
        with contextlib.suppress(BrokenPipeError, OSError):
            if not self._knows_template:
                stdin.write(_line(template))
                self._knows_template = True
            stdin.write(line)
            stdin.flush()
            return stdout.readline()
        return b""


def _start() -> _Running:
    try:
        return _Running(start_worker("backbone.template_worker"))
    except OSError as error:
        raise CheckpointError(
            f"the process that renders chat templates cannot be started ({error.strerror}); "
            "ask with a plain prompt"
        ) from None


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        with contextlib.suppress(OSError):
            if pipe is not None:
                pipe.close()


def _line(value: Any) -> bytes:
    try:
        return json.dumps(value).encode() + b"\n"
    except (ValueError, TypeError, RecursionError) as error:
        raise _cannot(str(error)) from None


def _cannot(reason: str) -> CheckpointError:
    return CheckpointError(
        f"the model's chat template cannot render this conversation ({reason}); {_INSTEAD}"
    )
