"""Model manager of the page: what is here and what fits, found, fetched, adopted and removed.

It is another face of `nearfar models`: the same functions, the same folder.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from backbone.errors import CheckpointError
from backbone.process_limits import free_memory_bytes
from edge.assistant.engine_settings import AssistantEngine
from edge.assistant.http_bodies import as_json, read_body, told
from edge.models import hub
from edge.models.catalogue import CatalogueRow, catalogue_rows
from edge.models.downloads import Downloads
from edge.models.local_models import (
    find_gguf,
    find_model,
    list_models,
    memory_needed,
    read_aliases,
    set_alias,
    size_of,
)
from edge.models.model_card import card_of
from edge.models.model_files import delete, removable
from edge.models.pull import misfit
from edge.models.used_models import forget_use, note_use, used_by_path
from offload.errors import RequestError
from offload.pair import CLOUD_MODEL


class ModelRow(msgspec.Struct, frozen=True, kw_only=True):
    """A model of this device; removing an alias or a path only forgets it."""

    name: str
    size_bytes: int
    fits: bool
    used: bool
    removes: str  # what removing it does: "deletes", "forgets", or "" where it is not ours


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    """What is here, and what is worth fetching, for the memory that is free."""

    free_bytes: int
    hub: str  # the Hub's address: what is searched for goes there
    here: list[ModelRow]
    catalogue: list[CatalogueRow]


class HubFile(msgspec.Struct, frozen=True, kw_only=True):
    """A GGUF file of a repository, by the name that fetches it."""

    name: str
    size_bytes: int
    misfit: str | None


class PullRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model to fetch; `anyway` also where it does not fit."""

    name: str
    anyway: bool = False


class Adoption(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model file of this machine, used where it lies, under a short name if one is given."""

    path: str
    name: str = ""


class ModelName(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The name of a model, or of a download."""

    name: str


class ModelManager:
    """Model manager: the page's routes under /api/models, and the downloads they began."""

    def __init__(self, assistant: AssistantEngine) -> None:
        self._assistant = assistant
        self._folder = assistant.here.models
        self.downloads = Downloads(self._folder)

    def routes(self) -> list[Route]:
        """Return the routes of the manager."""
        return [
            Route("/api/models", self.listed),
            Route("/api/models/search", self.search),
            Route("/api/models/files", self.files),
            Route("/api/models/adopt", self.adopt, methods=["POST"]),
            Route("/api/models/remove", self.remove, methods=["POST"]),
            Route("/api/pulls", self.pulls),
            Route("/api/pulls", self.pull, methods=["POST"]),
            Route("/api/pulls/stop", self.stop, methods=["POST"]),
        ]

    async def listed(self, _: Request) -> Response:
        return as_json(await asyncio.to_thread(self._list))

    def _list(self) -> ModelList:
        free = free_memory_bytes()
        return ModelList(
            free_bytes=free,
            hub=hub.endpoint(),
            here=self._rows(free),
            catalogue=catalogue_rows(free),
        )

    def _rows(self, free: int) -> list[ModelRow]:
        entries = [each for each in list_models(self._folder) if each.path != str(CLOUD_MODEL)]
        names = [each.name for each in entries]
        names += [*read_aliases(self._folder), *used_by_path(self._folder)]
        chosen = self._path(self._assistant.settings.edge.model)
        rows = []
        for name in dict.fromkeys(names):
            path = self._path(name)
            if path is not None:
                used = path == chosen
                rows.append(
                    ModelRow(
                        name=name,
                        size_bytes=size_of(path),
                        fits=used or memory_needed(path) <= free,
                        used=used,
                        removes=self._removes(name),
                    )
                )
        return rows

    def _path(self, name: str) -> Path | None:
        try:
            return find_model(name, self._folder)
        except CheckpointError:
            return None

    def _removes(self, name: str) -> str:
        if name in read_aliases(self._folder) or name in used_by_path(self._folder):
            return "forgets"
        try:
            removable(name, self._folder)
        except CheckpointError:
            return ""
        return "deletes"

    async def search(self, request: Request) -> Response:
        self._require_online()
        words = request.query_params.get("q", "").strip()
        if not words:
            raise RequestError("there is nothing to look for; write a word")
        return as_json(await asyncio.to_thread(hub.search, words))

    async def files(self, request: Request) -> Response:
        self._require_online()
        source = hub.parse(request.query_params.get("repo", ""))
        return as_json(await asyncio.to_thread(_gguf_files, source))

    async def pull(self, request: Request) -> Response:
        self._require_online()
        wanted = await read_body(request, PullRequest)
        hub.parse(wanted.name)  # what is no name is said at once
        self.downloads.start(wanted.name, anyway=wanted.anyway)
        return as_json({}, status=202)

    async def pulls(self, request: Request) -> Response:
        return as_json(
            [
                {
                    "name": each.name,
                    "done_bytes": each.done_bytes,
                    "total_bytes": each.total_bytes,
                    "state": each.state,
                    "model": each.model,
                    "error": told(request, each.error),
                }
                for each in self.downloads.all()
            ]
        )

    async def stop(self, request: Request) -> Response:
        self.downloads.stop((await read_body(request, ModelName)).name)
        return as_json({})

    async def adopt(self, request: Request) -> Response:
        """Use a model file where it lies, by its path or a short name."""
        wanted = await read_body(request, Adoption)
        path = wanted.path.strip()
        await asyncio.to_thread(card_of, find_gguf(path, self._folder))  # a damaged one is refused
        if wanted.name.strip():
            set_alias(wanted.name.strip(), path, self._folder)
        else:
            note_use(path, self._folder)
        return as_json({})

    async def remove(self, request: Request) -> Response:
        """Delete a model of the models folder, or forget an alias or a path."""
        name = (await read_body(request, ModelName)).name
        async with self._assistant.lock:
            await asyncio.to_thread(self._remove, name)
        return as_json({})

    def _remove(self, name: str) -> None:
        if name in read_aliases(self._folder):
            if name == self._assistant.settings.edge.model:
                raise RequestError(_IN_USE)
            set_alias(name, None, self._folder)
        elif name in used_by_path(self._folder):
            forget_use(name, self._folder)
        else:
            files = removable(name, self._folder)
            if self._path(self._assistant.settings.edge.model) in files:
                raise RequestError(_IN_USE)
            delete(files, self._folder)

    def _require_online(self) -> None:
        if self._assistant.is_offline:
            raise RequestError("nearfar runs offline; start it without --offline to reach the Hub")


_IN_USE = "this model is in use; choose another one first"


def _gguf_files(source: hub.Source) -> list[HubFile]:
    there = [each for each in hub.files(source) if each.rfilename.endswith(".gguf")]
    return [
        HubFile(
            name=f"{source.repo}/{each.rfilename}",
            size_bytes=size,
            misfit=misfit(each.rfilename, size),
        )
        for each in there
        if (size := each.lfs.size if each.lfs else each.size)
    ]
