"""Local store: the models of this device for clients that list, fetch and unload them."""

from __future__ import annotations

import hashlib
import queue
import threading
from collections.abc import Iterator
from pathlib import Path

from backbone.errors import CheckpointError
from edge.llama.gguf_file import fingerprint
from edge.models.local_models import find_listed, makes_embeddings, names_here
from edge.models.model_card import card_of
from edge.models.model_contents import read_contents, read_folder
from edge.models.model_files import delete, removable
from edge.models.pull import pull
from edge.near.near_service import NearService
from offload.config.places import Places
from offload.config.settings import EdgeSettings
from offload.engine_pool import ResidentEngine
from offload.model_store import MemoryModel, ModelDescription, PullProgress, StoredModel

_END = object()


class LocalStore:
    """Models of this device, and those that a service has in memory (offload.model_store)."""

    def __init__(self, service: NearService, here: Places) -> None:
        self._service, self._folder = service, here.models

    def stored(self) -> list[StoredModel]:
        """Return every model that can be asked, aliases included; damaged files are left out."""
        found = [self._named(name) for name in names_here(self._folder)]
        return [each for each in found if each is not None]

    def _named(self, name: str) -> StoredModel | None:
        path = find_listed(name, self._folder)
        try:
            return _stored(name, path) if path is not None else None
        except (CheckpointError, OSError):
            return None

    def describe(self, name: str) -> ModelDescription | None:
        """Return what a model is, None where there is none of this name."""
        path = find_listed(name, self._folder)
        if path is None:
            return None
        contents = read_folder(path) if path.is_dir() else read_contents(path)
        return ModelDescription(
            model=_stored(name, path),
            template=contents.chat_template,
            settings={
                key: value
                for key, value in contents.settings.items()
                if key != "tokenizer.chat_template"
            },
            embeddings=makes_embeddings(path),
        )

    def in_memory(self) -> list[MemoryModel]:
        """Return the models in memory, the one asked last first."""
        names: dict[Path, str] = {}
        for name in names_here(self._folder):
            path = find_listed(name, self._folder)
            if path is not None:
                names[path.absolute()] = name  # an alias comes last: it is what a person calls it
        return [self._in_memory(each, names) for each in self._service.in_memory()]

    def _in_memory(
        self, loaded: ResidentEngine[EdgeSettings], names: dict[Path, str]
    ) -> MemoryModel:
        path = Path(loaded.key.model)
        return MemoryModel(
            model=_stored(names.get(path, str(path)), path),
            expires_at=loaded.expires_at,
            max_model_len=loaded.engine.card().max_model_len,
        )

    async def unload(self, name: str) -> bool:
        """Take a model out of memory; False where it is answering."""
        path = find_listed(name, self._folder)
        if path is None:  # a command may have loaded one by its path
            there = [Path(each.key.model) for each in self._service.in_memory()]
            path = next((each for each in there if str(each) == name), None)
        return path is None or await self._service.unload(path)

    def pull(self, name: str) -> Iterator[PullProgress]:
        """Fetch a model in a thread, telling how far it is. Raises NearfarError."""
        steps: queue.SimpleQueue[object] = queue.SimpleQueue()

        def tell(file: str, done: int, total: int) -> None:
            steps.put(PullProgress(file=file, done_bytes=done, total_bytes=total))

        def fetch() -> None:
            try:
                pull(name, self._folder, tell=tell)
                steps.put(_END)
            except Exception as error:
                steps.put(error)

        threading.Thread(target=fetch, name="nearfar-pull", daemon=True).start()
        while isinstance(step := steps.get(), PullProgress):
            yield step
        if isinstance(step, Exception):
            raise step

    def delete(self, name: str) -> None:
        """Delete a model of this person's own folder. Raises CheckpointError for others."""
        delete(removable(name, self._folder), self._folder)


def _stored(name: str, path: Path) -> StoredModel:
    card = card_of(path)
    weights = sorted(path.glob("*.safetensors"))[:1] if path.is_dir() else [path]
    weights_hash = fingerprint(weights[0]) if weights else ""
    return StoredModel(
        name=name,
        size_bytes=card.size_bytes,
        modified_at=path.stat().st_mtime,
        digest=hashlib.sha256(weights_hash.encode()).hexdigest(),
        format="safetensors" if path.is_dir() else "gguf",
        card=card,
    )
