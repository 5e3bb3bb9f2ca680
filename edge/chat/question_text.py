"""Text of a question: the argument, and what is piped in."""

from __future__ import annotations

import os
import stat
import sys
import threading
from typing import BinaryIO

from backbone.terminal_text import echo, readable
from edge.conversations.attachments import fenced
from offload.errors import RequestError

_PATIENCE_S = 3.0


def question(prompt: str | None) -> str:
    """Return the question: the prompt, behind the text that is piped in. Raises RequestError."""
    if prompt in (None, "-"):
        if sys.stdin.isatty():
            echo("type your question, and Ctrl-D on a line of its own", err=True)
        return _stdin_text(sys.stdin.buffer).strip()
    assert prompt is not None, "the case is above"
    piped = _stdin_text(sys.stdin.buffer) if _is_piped() else ""
    prompt = readable(prompt)
    return f"{fenced('piped text', piped)}\n\n{prompt}" if piped.strip() else prompt


def _is_piped() -> bool:
    """Whether somebody has put a pipe or a file there; other things may never end."""
    try:
        kind = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError, AttributeError):  # closed, or none at all
        return False
    return stat.S_ISFIFO(kind) or stat.S_ISREG(kind)


def _stdin_text(source: BinaryIO) -> str:
    waiting = threading.Timer(_PATIENCE_S, _say_why_it_waits)
    waiting.daemon = True
    if not sys.stdin.isatty():
        waiting.start()
    try:
        data = source.read(MAX_BYTES + 1)
    finally:
        waiting.cancel()
    if len(data) > MAX_BYTES:
        raise RequestError(
            f"more than {MAX_BYTES:,} bytes are piped in; shorten them, with `tail` or `grep`"
        )
    if b"\0" in data:
        raise RequestError("what is piped in is not text; pipe plain UTF-8 text in")
    text = data.decode("utf-8-sig", errors="replace")
    if "\N{REPLACEMENT CHARACTER}" in text:
        echo("nearfar: some bytes of the piped text are not UTF-8; they are replaced", err=True)
    return text


def _say_why_it_waits() -> None:
    echo("waiting for the end of what is piped in; `< /dev/null` leaves it out", err=True)


MAX_BYTES = 1_000_000
