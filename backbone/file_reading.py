"""File reading within bounds: what a person names may be a device, a pipe, or without an end."""

from __future__ import annotations

import gzip
import io
import os
import select
import stat
import zlib
from pathlib import Path
from typing import cast

from backbone.files import open_private

MAX_TABLE_BYTES = 1 << 30  # of rows: questions, answers, outcomes, measurements
MAX_TEXT_BYTES = 256 << 20
MAX_CONFIG_BYTES = 64 << 20  # of what stands beside a model: config.json, tokenizer.json
_PIECE_BYTES = 1 << 20
_NO_WAIT = cast(int, getattr(os, "O_NONBLOCK", 0))  # else a pipe without a writer is waited for


def read_bytes(path: Path, max_bytes: int, *, pipes: bool = True) -> bytes:
    """Return the bytes of a file, of the null device, or of a pipe that somebody writes into.

    Raises OSError for more than `max_bytes`, before they are read where the file has a size, and
    for what may never end: another device, or a pipe that nobody has open.
    """
    descriptor = open_private(path, os.O_RDONLY | _NO_WAIT)
    try:
        status = os.fstat(descriptor)
        is_pipe = stat.S_ISFIFO(status.st_mode)
        is_null = stat.S_ISCHR(status.st_mode) and os.path.samestat(status, os.stat(os.devnull))
        is_file = stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)  # which says its own
        if not (is_file or is_null or (is_pipe and pipes)):
            raise OSError("it is no regular file and has no end")
        return _read_within(descriptor, max_bytes, size=status.st_size, is_pipe=is_pipe)
    finally:
        os.close(descriptor)


def _read_within(descriptor: int, max_bytes: int, *, size: int, is_pipe: bool) -> bytes:
    if size > max_bytes:
        raise OSError(f"it has {size:,} bytes and at most {max_bytes:,} are read")
    parts, num_bytes = list[bytes](), 0
    while True:
        try:
            part = os.read(descriptor, _PIECE_BYTES)
        except BlockingIOError:  # a pipe that has a writer, and nothing in it yet
            select.select([descriptor], [], [])
            continue
        if not part:
            break
        parts.append(part)
        num_bytes += len(part)
        if num_bytes > max_bytes:
            raise OSError(f"it has no end within the {max_bytes:,} bytes that are read")
    if is_pipe and not parts:
        raise OSError("it is a pipe into which nobody writes")
    return b"".join(parts)


def read_text(path: Path, max_bytes: int, *, pipes: bool = True) -> str:
    """Return a text in UTF-8. Raises OSError as `read_bytes` does, and UnicodeDecodeError."""
    text = read_bytes(path, max_bytes, pipes=pipes).decode("utf-8")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_unzipped(path: Path, max_bytes: int) -> bytes:
    """Return the bytes of a file that may be a .gz, unpacked. Raises OSError."""
    raw = read_bytes(path, max_bytes)
    if path.suffix != ".gz":
        return raw
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(raw)) as file:
            found = file.read(max_bytes + 1)
    except (EOFError, zlib.error) as error:
        raise OSError(f"it is no whole .gz file: {error}") from None
    if len(found) > max_bytes:
        raise OSError(f"it unpacks to more than the {max_bytes:,} bytes that are read")
    return found
