"""Terminal output of commands: a progress bar on stderr, and lines or one JSON document."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from backbone.errors import MissingExtra, NearfarError
from backbone.files import require_outputs
from backbone.terminal_text import echo, echo_json


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a function (done, in all) that moves a bar, drawn only where a person looks."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


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
