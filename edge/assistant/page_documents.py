"""Documents of the page: what is dropped there is read here, and kept for its conversation.

A small one goes back as text, for the question that is being written. A longer one is kept in a
folder of its own, is searched for each question, and goes with its conversation.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from backbone.file_names import name_of
from backbone.files import atomic_write
from edge.conversations.store import Conversations
from edge.documents.attached import AttachedDocuments, Searched, attached_documents
from offload.config.places import Places
from offload.config.settings import Settings
from offload.documents.document import Document
from offload.documents.reader import MAX_FILE_BYTES, document_of, read_document
from offload.errors import RequestError

_ID = re.compile(r"[0-9a-f]{32}")
_UNUSED_S = 86_400.0  # after which what was dropped and never asked about is deleted


class PageDocuments:
    """Documents of the page's conversations, by ids that are names of folders."""

    def __init__(self, store: Conversations, here: Places) -> None:
        self._store, self._here = store, here
        self._open: dict[str, Searched] = {}
        self._clear()

    def _clear(self) -> None:
        """Delete what belongs to no conversation and is old."""
        used = {Path(path).parent.name for path in self._store.all_documents()}
        for folder in self._here.attached.glob("*"):
            if folder.name not in used and time.time() - folder.stat().st_mtime > _UNUSED_S:
                shutil.rmtree(folder, ignore_errors=True)

    async def take(
        self, settings: Settings, name: str, body: AsyncIterator[bytes]
    ) -> dict[str, Any]:
        """Read a file that was dropped: its text where it is small, else what it is known by.

        Raises RequestError.
        """
        data = bytearray()
        async for part in body:
            data += part
            if len(data) > MAX_FILE_BYTES:
                raise RequestError(
                    f"{name} is larger than {MAX_FILE_BYTES >> 20} MB; attach a part of it"
                )
        document = await asyncio.to_thread(document_of, name, bytes(data))
        attached = attached_documents(settings, self._here)
        one = await asyncio.to_thread(attached.attach_document, document, Path(name))
        if not one.stays:
            return {"name": one.name, "content": document.text}
        made = uuid.uuid4().hex
        path = (
            self._here.attached
            / made
            / name_of(Path(name).stem, Path(name).suffix, otherwise="document")
        )
        path.parent.mkdir(parents=True, mode=0o700)
        await asyncio.to_thread(atomic_write, path, bytes(data))
        (searched,) = attached.searched
        self._open[made] = Searched(path=path, name=one.name, index=searched.index)
        return {"id": made, "name": one.name, "about": one.about}

    async def question(
        self, settings: Settings, conversation: str, ids: Sequence[str], text: str
    ) -> str:
        """Return a question behind the passages that may answer, and keep what is attached.

        Raises RequestError for a document that is gone.
        """
        attached = attached_documents(settings, self._here)
        attached.searched = [await asyncio.to_thread(self._searched, attached, id_) for id_ in ids]
        whole = await attached.question(text)
        await attached.search.aclose()
        self._store.keep_documents(conversation, attached.paths)
        return whole

    def _searched(self, attached: AttachedDocuments, id_: str) -> Searched:
        if id_ not in self._open:
            path = self._path(id_)
            document: Document = read_document(path, pipes=False)
            index = attached.search.of_document(document)
            self._open[id_] = Searched(path=path, name=document.name, index=index)
        return self._open[id_]

    def _path(self, id_: str) -> Path:
        folder = self._here.attached / id_
        found = sorted(folder.iterdir()) if _ID.fullmatch(id_) and folder.is_dir() else []
        if not found:
            raise RequestError("a document that is attached here is gone; attach it again")
        return found[0]

    def listed(self, conversation: str) -> list[dict[str, str]]:
        """Return the id and the name of what stays attached to a conversation."""
        paths = [Path(path) for path in self._store.documents(conversation)]
        kept = [path for path in paths if self._here.attached in path.parents]
        return [{"id": path.parent.name, "name": path.name} for path in kept if path.exists()]
