"""PDF worker: the text of one PDF within limits: `python -m offload.documents.pdf_worker`.

The file on stdin, a PdfText as JSON on stdout.
"""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING

import msgspec

from backbone.worker_process import limit_memory, limited_time
from offload.documents.pdf import PdfText

if TYPE_CHECKING:
    from pypdf import PdfReader

MAX_CPU_S = 90.0
MAX_MEMORY_BYTES = 1 << 30  # beyond what the process has when it is ready
MAX_PAGES = 10_000
MAX_TEXT_CHARS = 16 << 20


def main() -> None:
    """Read the file, write its text."""
    data = sys.stdin.buffer.read()
    try:
        import pypdf  # noqa: F401 - before memory is limited
    except ModuleNotFoundError:
        told = PdfText(fault="missing")
    else:
        limit_memory(MAX_MEMORY_BYTES)
        with limited_time(MAX_CPU_S):
            told = _text(data)
    sys.stdout.buffer.write(msgspec.json.encode(told))


def _text(data: bytes) -> PdfText:
    from pypdf import PdfReader
    from pypdf.errors import DependencyError, FileNotDecryptedError, WrongPasswordError

    try:
        reader = PdfReader(io.BytesIO(data))
        # Many files have a password for changing them alone: to read them there is none.
        if reader.is_encrypted and not reader.decrypt(""):
            return PdfText(fault="encrypted")
        return _pages(reader)
    except (DependencyError, FileNotDecryptedError, WrongPasswordError):
        return PdfText(fault="encrypted")
    except MemoryError:
        return PdfText(fault="costly")
    except Exception:  # a stranger's file may raise anything
        return PdfText(fault="broken")


def _pages(reader: PdfReader) -> PdfText:
    found, num_unread, num_chars = list[tuple[int, str]](), 0, 0
    for number in range(1, min(len(reader.pages), MAX_PAGES + 1) + 1):
        try:
            text = reader.pages[number - 1].extract_text().strip()
        except MemoryError:
            raise
        except Exception:
            num_unread += 1
            continue
        num_chars += len(text)
        if num_chars > MAX_TEXT_CHARS or number > MAX_PAGES:
            return PdfText(fault="long")
        if text:
            found.append((number, text))
    if not found:
        return PdfText(fault="broken" if num_unread else "empty")
    return PdfText(pages=tuple(found), num_unread=num_unread)


if __name__ == "__main__":
    main()
