"""Servers of the attack: started as a person starts them, and ended by SIGTERM in their time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
MOST_WAIT_S = 5.0  # for others while an input is worked on: far more than it takes
MOST_ANSWER_S = 60.0  # for an answer or a refusal of the input itself
_TO_LEAVE_S = 2.0  # for the system to end a process that has ended itself


@contextmanager
def started(
    home: Path, *arguments: str, end_within_s: float, **environment: str
) -> Iterator[dict[str, Any]]:
    """Start a command that says in JSON where it listens; it must end on SIGTERM in its own bound.

    Yields what it said, and its `pid`. Raises subprocess.TimeoutExpired for one that does not end.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "nearfar", *arguments, "--json"],
        cwd=ROOT,
        env={**os.environ, "NEARFAR_HOME": str(home), **environment},
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None, "its output is a pipe"
    try:
        yield {**json.loads(process.stdout.readline()), "pid": process.pid}
        process.send_signal(signal.SIGTERM)
        began_s = time.monotonic()
        process.wait(end_within_s + _TO_LEAVE_S)
        print(f"{' '.join(arguments[:2])}: ended {time.monotonic() - began_s:.1f} s after SIGTERM")
    finally:
        process.kill()
        process.wait()


class Report:
    """What the attack found; each finding is told at once."""

    def __init__(self, only: str = "") -> None:
        self.wrong: list[str] = []
        self._only = only

    def wants(self, name: str) -> bool:
        """Whether an input of this name is to be sent."""
        return self._only in name

    def note(self, name: str, is_well: bool, told: str = "") -> None:
        """Note whether a server bore an input."""
        print(
            f"{'held' if is_well else 'FAILED':6}  {name}{f': {told}' if told else ''}", flush=True
        )
        if not is_well:
            self.wrong.append(f"{name}: {told}")

    def each(self, inputs: Mapping[str, Callable[[], str]]) -> None:
        """Try each input that is wanted; it returns what went wrong, "" for nothing."""
        for name, attempt in inputs.items():
            if self.wants(name):
                told = attempt()
                self.note(name, not told, told)
