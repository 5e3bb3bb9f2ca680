"""Transfers of conversations by the page: another program's export taken over, and all of ours."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from backbone.files import scratch_folder
from edge.assistant.engine_settings import AssistantEngine
from edge.assistant.http_bodies import as_json
from edge.conversations.conversation import export_all
from edge.conversations.conversation_import import keep_imported, read_export
from edge.conversations.store import Conversations
from offload.errors import RequestError

MAX_IMPORT_BYTES = 256_000_000


class Transfers:
    """The page's routes for taking conversations over and out."""

    def __init__(self, assistant: AssistantEngine, store: Conversations) -> None:
        self._assistant, self._store = assistant, store

    def routes(self) -> list[Route]:
        """Return the routes of the transfers."""
        return [
            Route("/api/import", self.take, methods=["POST"]),
            Route("/api/export", self.give),
        ]

    async def take(self, request: Request) -> Response:
        """Take over the conversations of an exported file, which is the body."""
        with scratch_folder("import") as folder:
            path = folder / "exported"
            await _written(request, path)
            found = await asyncio.to_thread(read_export, path)
        kept = 0
        for each in found.conversations:
            kept += keep_imported(self._store, each, self._assistant.privacy)
            await asyncio.sleep(0)  # others are answered in between
        here = len(found.conversations) - kept
        return as_json({"imported": kept, "here": here, "unread": found.num_unread})

    async def give(self, _: Request) -> Response:
        """Return all conversations as one JSON document."""

        async def pieces() -> AsyncIterator[str]:
            for piece in export_all(self._store.every()):
                yield piece
                await asyncio.sleep(0)

        return StreamingResponse(pieces(), media_type="application/json")


async def _written(request: Request, path: Path) -> None:
    size = 0
    with path.open("wb") as file:
        async for piece in request.stream():
            size += len(piece)
            if size > MAX_IMPORT_BYTES:
                raise RequestError(
                    f"at most {MAX_IMPORT_BYTES:,} bytes are taken here; "
                    "`nearfar conversations import FILE` takes more"
                )
            file.write(piece)
