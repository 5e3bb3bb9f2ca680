"""Folder of documents: its files in an index, which is brought up to date when it is used."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from offload.documents.document import Document
from offload.documents.index import DocumentIndex
from offload.documents.reader import ENDINGS, MAX_FILE_BYTES, read_document
from offload.errors import RequestError

MAX_FILES = 20_000
_LEFT_OUT = frozenset({"__pycache__", "node_modules", "venv"})  # beside what is hidden


@dataclass(frozen=True, kw_only=True)
class Refreshed:
    """What bringing an index up to date did; `unread` are files and why they could not be read."""

    num_files: int
    num_read: int
    num_gone: int
    unread: tuple[str, ...] = ()


def index_file(folder: Path, indexes: Path) -> Path:
    """Return the file of a folder's index among the indexes."""
    whole = folder.resolve()
    name = re.sub(r"[^\w.-]+", "-", whole.name)[:40]
    digest = hashlib.sha256(os.fsencode(whole)).hexdigest()[:12]
    return indexes / f"{name}-{digest}.sqlite"


def open_folder(folder: Path, indexes: Path) -> DocumentIndex:
    """Open the index of a folder, empty where there is none yet. Raises RequestError."""
    if not folder.is_dir():
        raise RequestError(f"{folder} is no folder; name one with documents in it")
    index = DocumentIndex(index_file(folder, indexes))
    index.about = str(folder.resolve())
    return index


def refresh(
    index: DocumentIndex,
    folder: Path,
    *,
    told: Callable[[str], None] = lambda _: None,
    read: Callable[..., Document] = read_document,
) -> Refreshed:
    """Read what is new or changed into the index, and take out what is gone.

    What cannot be read is kept without a text, so that it is not tried again before it changes.
    Raises RequestError for a folder of too many files.
    """
    known, found, unread, num_read = index.marks(), set[str](), list[str](), 0
    for path in documents_in(folder):
        source = path.relative_to(folder).as_posix()
        found.add(source)
        if len(found) > MAX_FILES:
            raise RequestError(f"{folder} has more than {MAX_FILES:,} files; name a part of it")
        status = path.stat()
        mark = f"{status.st_mtime_ns} {status.st_size}"
        if known.get(source) == mark:
            continue
        told(source)
        try:
            document = read(path, pipes=False)
            num_read += 1
        except RequestError as error:
            unread.append(str(error))
            document = Document(name=source, kind="text", pages=())
        index.add(document, source, mark)
    gone = set(known) - found
    if gone:
        index.remove(gone)
    return Refreshed(
        num_files=len(found), num_read=num_read, num_gone=len(gone), unread=tuple(unread)
    )


def documents_in(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder and those below it that can be read, in the order of names.

    Nothing hidden or too large, and no link: it may lead out of the folder, or in a circle.
    """
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(each for each in folders if each[0] != "." and each not in _LEFT_OUT)
        for name in sorted(names):
            path = Path(root, name)
            if name[0] == "." or path.suffix.lower() not in ENDINGS:
                continue
            if not path.is_symlink() and path.is_file() and path.stat().st_size <= MAX_FILE_BYTES:
                yield path
