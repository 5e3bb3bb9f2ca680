"""Routes of Ollama's API, for clients that look for it on this machine."""

from __future__ import annotations

from starlette.routing import Route

from offload.model_store import ModelStore
from serve.app import AppParts
from serve.ollama.answers import OllamaAnswers, OllamaEmbeddings
from serve.ollama.bodies import OllamaChat, OllamaGenerate
from serve.ollama.models import OllamaModels

# Every path, so that who shares /api/ with others knows whose it is.
PATHS = frozenset(
    f"/api/{name}"
    for name in (
        *("chat", "generate", "embed", "embeddings", "tags", "show", "ps", "version", "pull"),
        "delete",
    )
)


def ollama_routes(parts: AppParts, store: ModelStore, *, may_change: bool) -> list[Route]:
    """Return the routes; `may_change` lets clients fetch and delete models."""
    models = OllamaModels(store=store, options=parts.options, may_change=may_change)
    chat = OllamaAnswers(parts=parts, store=store, kind=OllamaChat)
    generate = OllamaAnswers(parts=parts, store=store, kind=OllamaGenerate)
    return [
        Route("/api/chat", chat, methods=["POST"]),
        Route("/api/generate", generate, methods=["POST"]),
        Route("/api/embed", OllamaEmbeddings(parts=parts), methods=["POST"]),
        Route("/api/embeddings", OllamaEmbeddings(parts=parts, is_older=True), methods=["POST"]),
        Route("/api/tags", models.tags),
        Route("/api/ps", models.ps),
        Route("/api/version", models.version),
        Route("/api/show", models.show, methods=["POST"]),
        Route("/api/pull", models.pull, methods=["POST"]),
        Route("/api/delete", models.delete, methods=["DELETE"]),
    ]
