"""Document search: the indexes of what is attached, and the model that embeds where one is set."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

from edge.documents.folder import Refreshed, open_folder, refresh
from edge.models.local_models import find_gguf
from edge.near.edge_factory import open_edge
from offload.config.places import Places
from offload.config.settings import Settings
from offload.documents.document import Document, Passage
from offload.documents.index import DocumentIndex
from offload.engine import Embedding, Engine
from offload.errors import ContextLengthError, Unsupported

_EMBEDDED_AT_ONCE = 16
_MOST = 64  # passages of one document that are looked at for a question


class DocumentSearch:
    """Search of documents; the model that embeds is loaded at the first text, if one is set."""

    def __init__(
        self,
        settings: Settings,
        here: Places,
        *,
        open_engine: Callable[[Settings, Places], Engine] = open_edge,
    ) -> None:
        self._settings, self._here, self._open_engine = settings, here, open_engine
        self._engine: Engine | None = None

    @property
    def model(self) -> str:
        """The name and size of the file that embeds; empty where words alone are searched.

        Raises CheckpointError where it is gone.
        """
        wanted = self._settings.documents.embedding_model
        if not wanted:
            return ""
        path = find_gguf(wanted, self._here.models)
        return f"{path.name} {path.stat().st_size}"

    def of_document(self, document: Document) -> DocumentIndex:
        """Return an index of one document, in memory."""
        index = DocumentIndex()
        index.add(document, document.name)
        return index

    def of_folder(
        self, folder: Path, told: Callable[[str], None] = lambda _: None
    ) -> tuple[DocumentIndex, Refreshed]:
        """Return the index of a folder, brought up to date. Raises RequestError, SettingsError."""
        index = open_folder(folder, self._here.indexes)
        return index, refresh(index, folder.resolve(), told=told)

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Return the vectors of texts, by the near model where none is set for it.

        Raises Unsupported for a model that makes none.
        """
        if self._engine is None:
            settings = self._settings
            if wanted := settings.documents.embedding_model:
                edge = replace(settings.edge, model=wanted, lora="", draft_model="", server="")
                settings = replace(settings, edge=edge)
            self._engine = await asyncio.to_thread(self._open_engine, settings, self._here)
        if not isinstance(self._engine, Embedding):
            raise Unsupported("this model makes no embeddings; choose a GGUF file for it")
        return await self._engine.embed(texts)

    async def embed_passages(
        self, index: DocumentIndex, told: Callable[[int, int], None] = lambda *_: None
    ) -> None:
        """Give every passage of an index its vector, where a model is set.

        `told` hears how many of how many are done. What is done is kept where it is stopped.
        """
        if not self.model:
            return
        missing = index.without_vector(self.model)
        for start in range(0, len(missing), _EMBEDDED_AT_ONCE):
            some = missing[start : start + _EMBEDDED_AT_ONCE]
            vectors = await self._embed_all([text for _, text in some])
            ids = [number for number, _ in some]
            index.keep_vectors(self.model, zip(ids, vectors, strict=True))
            told(start + len(some), len(missing))

    async def _embed_all(self, texts: Sequence[str]) -> list[list[float]]:
        """Return a vector of each text; one too long for the model has that of its beginning."""
        try:
            return await self.embed(texts)
        except ContextLengthError:
            if len(texts) > 1:
                return [(await self._embed_all([text]))[0] for text in texts]
            return await self._embed_all([texts[0][: len(texts[0]) // 2]])

    async def find(
        self, indexes: Sequence[DocumentIndex], question: str, max_chars: int
    ) -> list[Passage]:
        """Return the passages that may answer, by turns of each index, as many as fit."""
        vector: Sequence[float] = ()
        if self.model and indexes:
            for index in indexes:
                await self.embed_passages(index)
            vector = (await self._embed_all([question]))[0]
        each = [index.search(question, _MOST, model=self.model, vector=vector) for index in indexes]
        found, num_chars = list[Passage](), 0
        for passage in (one for row in zip_longest(*each) for one in row if one is not None):
            num_chars += len(passage.text)
            if found and num_chars > max_chars:
                break
            found.append(passage)
        return found

    async def aclose(self) -> None:
        """Close the model that embeds."""
        if self._engine is not None:
            await self._engine.aclose()
            self._engine = None
