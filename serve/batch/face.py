"""The HTTP face of a cloud endpoint: OpenAI's API with files and batches, which outlive it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from offload.config.settings import Settings
from offload.engine import Engine
from serve.cli import address_of, face_of, options_from

if TYPE_CHECKING:
    from starlette.routing import Route
    from starlette.types import ASGIApp

    from serve.app import AppParts
    from serve.batch.runner import BatchRunner

_PLACES = 100_000  # requests of batches at once: the runner itself is what bounds them


@asynccontextmanager
async def face_with_batches(
    engine: Engine, settings: Settings, address: str, folder: Path
) -> AsyncIterator[str]:
    """Serve an engine at HOST:PORT while the block lasts, and yield the server's URL.

    Keys and limits are those of the settings; files and batches are kept in `folder`. Raises
    SettingsError, and MissingExtra.
    """
    async with AsyncExitStack() as stack:
        runners: list[BatchRunner] = []

        def further(parts: AppParts) -> Sequence[Route]:
            from serve.batch.routes import BatchRoutes
            from serve.batch.runner import BatchRunner
            from serve.batch.store import BatchStore

            store = BatchStore(folder)
            runners.append(BatchRunner(store, endpoints_of(parts)))
            return BatchRoutes(store, runners[0], parts.options).routes()

        options = options_from(settings, *address_of(address))
        url = await stack.enter_async_context(face_of(engine, options, further=further))
        await stack.enter_async_context(runners[0].running())
        yield url


def endpoints_of(parts: AppParts) -> Mapping[str, ASGIApp]:
    """Return what answers a batch's requests, by path: places of their own, the key's budgets."""
    from serve.admission import Admission
    from serve.completion_endpoint import (
        CHAT,
        COMPLETIONS,
        RESPONSES,
        ApiForm,
        C,
        CompletionEndpoint,
    )
    from serve.json_endpoints import JsonEndpoint, embed
    from serve.request_schema import EmbeddingBody

    admission = Admission(
        max_running=_PLACES, max_queued=_PLACES, meter=parts.meter, metrics=parts.metrics
    )

    def answered(form: ApiForm[C]) -> CompletionEndpoint[C]:
        return CompletionEndpoint(
            engine=parts.engine,
            models=parts.models,
            options=parts.options,
            metrics=parts.metrics,
            admission=admission,
            form=form,
        )

    return {
        "/v1/chat/completions": answered(CHAT),
        "/v1/completions": answered(COMPLETIONS),
        "/v1/responses": answered(RESPONSES),
        "/v1/embeddings": JsonEndpoint(
            engine=parts.engine,
            models=parts.models,
            options=parts.options,
            admission=admission,
            kind=EmbeddingBody,
            answer=embed,
        ),
    }
