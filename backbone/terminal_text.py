"""Terminal text: nothing in it can command the terminal; numbers of bytes in readable units.

Answers, conversations, names of files and models, and the words of other servers come from
outside. An escape sequence in them could move the cursor, set the title or fill the clipboard.
"""

from __future__ import annotations

import base64
import os
import re
import sys
from typing import IO, TextIO


def readable_bytes(num_bytes: float) -> str:
    """Return the bytes in the unit that fits: 3 B, 12.3 kB, 4.56 MB, 7.89 GB."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= size:
            return f"{num_bytes / size:.3g} {unit}"
    return f"{num_bytes:.0f} B"


# C0 but for tab and line feed, DEL, and C1, which terminals take for escape sequences too; and
# lone surrogates, by which Python carries bytes that are no text.
_COMMANDS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_LONE = re.compile(r"[\ud800-\udfff]")


def printable(text: str) -> str:
    """Return the text without the characters that command a terminal."""
    return _LONE.sub("\N{REPLACEMENT CHARACTER}", _COMMANDS.sub("", text))


def readable(text: str) -> str:
    """Return a text with what is no Unicode replaced: bytes in an argument that were not UTF-8."""
    return _LONE.sub("\N{REPLACEMENT CHARACTER}", text)


_FAINT, _STRONG = "2", "1;35"  # dim; bold magenta


def echo(text: object = "", *, err: bool = False, faint: bool = False, end: str = "\n") -> None:
    """Write a line on stdout, or on stderr; `faint` where that is a terminal with styles."""
    stream = sys.stderr if err else sys.stdout
    write(f"{text}{end}", stream, faint=faint)


def echo_json(document: str, *, end: str = "\n") -> None:
    """Write a document of JSON on stdout: what would command a terminal is escaped, and kept."""
    for characters in (_COMMANDS, _LONE):
        document = characters.sub(lambda found: f"\\u{ord(found[0]):04x}", document)
    echo(document, end=end)


def write(text: str, stream: TextIO, *, faint: bool = False, strong: bool = False) -> None:
    """Write a piece of text on a stream, without what commands a terminal."""
    text = printable(text)
    if (faint or strong) and text.strip() and stream.isatty() and _has_styles():
        body = text.rstrip("\n")
        text = f"\x1b[{_STRONG if strong else _FAINT}m{body}\x1b[0m{text[len(body) :]}"
    stream.write(text)
    stream.flush()


def overwrite(text: str, stream: TextIO) -> None:
    """Write a faint line over the one the cursor is on; an empty text leaves that line empty."""
    erase = "\r\x1b[K" if _has_styles() else "\r"
    body = printable(text)
    stream.write(f"{erase}\x1b[2m{body}\x1b[0m" if body and _has_styles() else f"{erase}{body}")
    stream.flush()


def to_clipboard(text: str, stream: IO[str]) -> None:
    """Ask the terminal to put a text on the clipboard (OSC 52); some must be told to allow it."""
    stream.write(f"\x1b]52;c;{base64.b64encode(text.encode()).decode()}\a")
    stream.flush()


def clean_logs() -> None:
    """Let warnings reach the terminal by the same way: they name files and servers."""
    import logging

    class _Printable(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            return printable(super().format(record))

    assert logging.lastResort is not None, "nobody has taken Python's own handler away"
    logging.lastResort.setFormatter(_Printable())


def _has_styles() -> bool:
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM", "") not in ("dumb", "unknown")
