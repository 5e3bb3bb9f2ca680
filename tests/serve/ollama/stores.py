"""A model store of two models, which notes what it is asked to do."""

from __future__ import annotations

from collections.abc import Iterator

from backbone.errors import CheckpointError
from offload.model_store import MemoryModel, ModelDescription, PullProgress, StoredModel
from tests.offload.scripted import CARD


def stored(name: str) -> StoredModel:
    return StoredModel(
        name=name,
        size_bytes=1000,
        modified_at=1_700_000_000.0,
        digest="0" * 64,
        format="gguf",
        card=CARD,
    )


class Store:
    """The models `scripted` and `other`; `busy` answers and cannot be unloaded."""

    def __init__(self, *, busy: str = "") -> None:
        self.busy, self.done = busy, list[str]()

    def stored(self) -> list[StoredModel]:
        return [stored("scripted"), stored("other")]

    def describe(self, name: str) -> ModelDescription | None:
        if name not in ("scripted", "other"):
            return None
        return ModelDescription(
            model=stored(name),
            template="{{ tools }}{{ enable_thinking }}",
            settings={"llama.context_length": 4096, "tokenizer.ggml.tokens": ["a", "b"]},
            embeddings=True,
        )

    def in_memory(self) -> list[MemoryModel]:
        return [
            MemoryModel(model=stored("scripted"), expires_at=1_700_000_300.0, max_model_len=4096),
            MemoryModel(model=stored("other"), expires_at=None, max_model_len=512),
        ]

    async def unload(self, name: str) -> bool:
        self.done.append(f"unload {name}")
        return name != self.busy

    def pull(self, name: str) -> Iterator[PullProgress]:
        self.done.append(f"pull {name}")
        yield PullProgress(file="a.gguf", done_bytes=5, total_bytes=10)
        if name == "broken":
            raise CheckpointError("the Hub has no such model; try another")
        yield PullProgress(file="a.gguf", done_bytes=10, total_bytes=10)

    def delete(self, name: str) -> None:
        self.done.append(f"delete {name}")
