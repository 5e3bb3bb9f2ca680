"""Model store: the models of a device as other programs list, fetch and unload them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import msgspec

from offload.messages import ModelCard


class StoredModel(msgspec.Struct, frozen=True, kw_only=True):
    """One model on disk; times are of time.time(), `digest` is a name of its content."""

    name: str
    size_bytes: int
    modified_at: float
    digest: str
    format: str  # "gguf" or "safetensors"
    card: ModelCard


class ModelDescription(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a model's inside."""

    model: StoredModel
    template: str
    settings: dict[str, Any]  # of its file's head
    embeddings: bool


class MemoryModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model in memory; `expires_at` None is for ever, or while it answers."""

    model: StoredModel
    expires_at: float | None
    max_model_len: int


class PullProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a download is."""

    file: str
    done_bytes: int
    total_bytes: int


class ModelStore(Protocol):
    """The models of a device, by the names that people use."""

    def stored(self) -> list[StoredModel]:
        """Return every model that can be asked, aliases included."""
        ...

    def describe(self, name: str) -> ModelDescription | None:
        """Return what a model is, None where there is none of this name."""
        ...

    def in_memory(self) -> list[MemoryModel]:
        """Return the models in memory, the one asked last first."""
        ...

    async def unload(self, name: str) -> bool:
        """Take a model out of memory; False where it is answering."""
        ...

    def pull(self, name: str) -> Iterator[PullProgress]:
        """Fetch a model, in the calling thread, telling how far it is. Raises NearfarError."""
        ...

    def delete(self, name: str) -> None:
        """Delete a model of this person's own folder. Raises NearfarError."""
        ...
