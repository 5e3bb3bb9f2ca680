"""PDF documents: read by pypdf in a process of its own, which ends where a file takes too much.

A PDF is a program of sorts: its streams unpack to a thousand times their size, and its objects
may point at each other for ever.
"""

from __future__ import annotations

import threading
from typing import Literal

import msgspec

from backbone.worker_process import start_worker
from offload.documents.document import Document, Page
from offload.errors import RequestError

MAX_WAIT_S = 120.0  # by the clock; the process counts what it computes, and ends sooner
Fault = Literal["", "encrypted", "broken", "empty", "long", "costly", "missing"]
_FAULTS: dict[Fault, str] = {
    "encrypted": "{name} is locked by a password; save it without one, and attach that",
    "broken": "{name} is no whole PDF; open it and save it anew, or attach its text",
    "empty": "{name} has no text in it, as a scan; make it searchable (OCR), and attach that",
    "long": "{name} holds more text than can be read; attach a part of it",
    "costly": "{name} takes too much time or memory to read; attach a part of it, or its text",
    "missing": "{name} cannot be read, as pypdf is not installed; `pip install pypdf` brings it",
}


class PdfText(msgspec.Struct, frozen=True, kw_only=True):
    """Text of a PDF: its pages that have any, by number; how many are damaged, or its fault."""

    pages: tuple[tuple[int, str], ...] = ()
    num_unread: int = 0
    fault: Fault = ""


def pdf_document(name: str, data: bytes) -> Document:
    """Return the pages of a PDF that have text. Raises RequestError for one that gives none."""
    read = _read(data)
    if read.fault:
        raise RequestError(_FAULTS[read.fault].format(name=name))
    pages = tuple(Page(number=number, text=text) for number, text in read.pages)
    return Document(name=name, kind="pdf", pages=pages, num_unread=read.num_unread)


def _read(data: bytes) -> PdfText:
    process = start_worker("offload.documents.pdf_worker")
    clock = threading.Timer(MAX_WAIT_S, process.kill)
    clock.start()
    try:
        written, _ = process.communicate(data)
    except BaseException:  # Ctrl-C
        process.kill()
        process.wait()
        raise
    finally:
        clock.cancel()
    if process.returncode < 0 or not written:  # the system has ended it
        return PdfText(fault="costly")
    return msgspec.json.decode(written, type=PdfText)
