"""Terminal output of commands: progress on stderr, and lines or one JSON document."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from backbone.errors import MissingExtra, NearfarError
from backbone.files import require_outputs
from backbone.terminal_text import echo, echo_json

_LINE_S = 5.0  # between two lines of progress, where there is no terminal to draw on


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a function (done, in all) that moves a bar, or writes a line where nothing is drawn.

    A log gets a line for each twentieth of the work, at most one in five seconds: short work none.
    """
    if not sys.stderr.isatty():
        yield ProgressLines(what, write=partial(echo, err=True), clock=time.monotonic)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


class ProgressLines:
    """Progress as plain lines: "blocks: 3 of 24, 2 min left"."""

    def __init__(
        self,
        what: str,
        *,
        write: Callable[[str], None],
        clock: Callable[[], float],
    ) -> None:
        self._what, self._write, self._clock = what, write, clock
        self._start = self._last = clock()
        self._told = 0  # twentieths
        self._found: int | None = None  # what was done already when this run began

    def __call__(self, done: int, total: int) -> None:
        """Say how much is done, where a line is due."""
        now, part = self._clock(), 20 * done // max(total, 1)
        if self._found is None:
            self._found = max(done - 1, 0)
        if part <= self._told or now - self._last < _LINE_S:
            return
        self._told, self._last = part, now
        left = (now - self._start) * (total - done) / (done - self._found)
        ending = f", {_duration(left)} left" if done < total else ""
        self._write(f"{self._what}: {done} of {total}{ending}")


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def show(document: dict[str, Any], lines: Sequence[str], *, as_json: bool) -> None:
    """Print one JSON document, or the lines for a person."""
    if as_json:
        echo_json(json.dumps(document, default=str))
        return
    for line in lines:
        echo(line)


def require_free(target: Path | None, *, force: bool) -> None:
    """Raise NearfarError where a file to write is there already, unless that was said."""
    require_outputs(target)
    if target is not None and target.is_file() and not force:
        raise NearfarError(
            f"{target} is there already; name another file, or write over it with --force"
        )


def megabytes(size: int) -> str:
    """Return a size as people read it."""
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.2f} MB"


def require_torch() -> None:
    """Raise MissingExtra where the packages that measuring needs are not installed."""
    for package in ("torch", "safetensors", "tokenizers"):
        if find_spec(package) is None:
            raise MissingExtra(package, "quantize")
