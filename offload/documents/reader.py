"""Document reader: text, Markdown, code and PDF files as documents, within bounds."""

from __future__ import annotations

import codecs
from pathlib import Path

from backbone.errors import cause
from backbone.file_reading import read_bytes
from offload.documents.document import Document, Kind, Page
from offload.errors import RequestError

MAX_FILE_BYTES = 32 << 20
_HEAD_BYTES = 1024  # within which a PDF says that it is one
_MARKDOWN = frozenset({".md", ".markdown", ".mdx"})
_CODE_ENDINGS = (
    "bash c cc cfg cpp cs css cu go h hpp html ini java js json jsonl kt lua php pl ps1 py r rb rs "
    "scala sh sql swift tex toml ts tsx vue xml yaml yml"
)
_CODE = frozenset(f".{ending}" for ending in _CODE_ENDINGS.split())
_TEXT = frozenset({".txt", ".text", ".rst", ".org", ".adoc", ".csv", ".tsv", ".log", ".eml", ""})
ENDINGS = _MARKDOWN | _CODE | _TEXT | {".pdf"}  # of the files that are read out of a folder


def read_document(path: Path, *, pipes: bool = True) -> Document:
    """Return what stands in a file. Raises RequestError with the remedy.

    A PDF is read in a process of its own: call it in a thread where an event loop runs.
    """
    try:
        data = read_bytes(path, MAX_FILE_BYTES, pipes=pipes)
    except (OSError, ValueError) as error:
        raise RequestError(
            f"{path} cannot be read ({cause(error)}); check its name, or attach a part of it"
        ) from None
    return document_of(path.name, data)


def document_of(name: str, data: bytes) -> Document:
    """Return what stands in a file of this name and these bytes. Raises RequestError."""
    if b"%PDF-" in data[:_HEAD_BYTES]:
        from offload.documents.pdf import pdf_document

        return pdf_document(name, data)
    text = _decoded(name, data)
    if not text.strip():
        raise RequestError(f"{name} is empty; attach a file with text in it")
    return Document(name=name, kind=_kind(name), pages=(Page(number=0, text=text),))


def _kind(name: str) -> Kind:
    ending = Path(name).suffix.lower()
    if ending in _MARKDOWN:
        return "markdown"
    return "code" if ending in _CODE else "text"


def _decoded(name: str, data: bytes) -> str:
    """Return the text of UTF-8, or of UTF-16 that says so, with the line ends of Unix."""
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise RequestError(
            f"{name} is not text; text in UTF-8, Markdown, code and PDF can be read, so save it as "
            "one of these"
        )
    return text.replace("\r\n", "\n").replace("\r", "\n")
