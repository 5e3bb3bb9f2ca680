"""Files as part of a question: their text, named and fenced."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from backbone.error_causes import cause
from backbone.paths import expanded
from backbone.terminal_text import readable
from offload.errors import RequestError

MAX_BYTES = 1_000_000


def with_files(question: str, paths: Sequence[str | Path]) -> str:
    """Return the question behind the text of each file. Raises RequestError."""
    parts = [attachment(expanded(path)) for path in paths]
    return "\n\n".join([*parts, question])


def attachment(path: Path) -> str:
    """Return a file's text in a fence that nothing inside can close. Raises RequestError."""
    return fenced(path.name, _text(path))


def fenced(name: str, text: str) -> str:
    """Return a text under its name, in a fence that nothing inside can close."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{readable(name)}:\n{fence}\n{text.rstrip()}\n{fence}"


def _text(path: Path) -> str:
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise RequestError(
                f"{path} has {size:,} bytes and at most {MAX_BYTES:,} can be attached; shorten it"
            )
        data = path.read_bytes()
        if b"\0" in data:
            raise UnicodeDecodeError("utf-8", data, 0, 1, "a zero byte")
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise RequestError(
            f"{path} is not text; save it as plain UTF-8 text and attach that"
        ) from None
    except (OSError, ValueError) as error:
        raise RequestError(f"{path} cannot be read ({cause(error)}); check its name") from None
