"""Models of Ollama's API: list, show, what is in memory; pull and delete where that is allowed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from backbone.errors import NearfarError
from offload.model_store import ModelDescription, ModelStore, PullProgress, StoredModel
from serve.http_bodies import json_response, read_body
from serve.http_errors import BadRequest, describe
from serve.line_stream import LineStream
from serve.ollama.answers import failed, read_as
from serve.ollama.bodies import OllamaModel
from serve.ollama.lines import stamp
from serve.options import ServeOptions

# The release of ollama whose API is followed: clients look whether it is new enough for them.
API_VERSION = "0.9.0"
_FOR_EVER = "2318-01-01T00:00:00Z"
_DAY_S = 86_400.0


@dataclass(frozen=True, kw_only=True)
class OllamaModels:
    """What can be asked of the models themselves; changing them is for who allowed it."""

    store: ModelStore
    options: ServeOptions
    may_change: bool
    # Each that comes waits in a thread, of which all that answer have few.
    one_by_one: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def tags(self, _: HttpRequest) -> Response:
        """List the models on this device."""
        stored = await asyncio.to_thread(self.store.stored)
        return _json({"models": [_listed(each) for each in stored]})

    async def ps(self, _: HttpRequest) -> Response:
        """List the models in memory."""
        rows = []
        for each in await asyncio.to_thread(self.store.in_memory):
            expires = _FOR_EVER if each.expires_at is None else stamp(each.expires_at)
            size = {"size": each.model.size_bytes, "size_vram": 0}
            more = {"expires_at": expires, "context_length": each.max_model_len}
            rows.append({**_listed(each.model), **size, **more})
        return _json({"models": rows})

    async def version(self, _: HttpRequest) -> Response:
        """Tell which release of ollama's API this is."""
        return _json({"version": API_VERSION, "server": "nearfar"})

    async def show(self, request: HttpRequest) -> Response | LineStream:
        """Show what a model is."""
        try:
            body = await self._read(request)
            found = await asyncio.to_thread(self.store.describe, body.said)
            if found is None:
                raise _unknown(body.said)
            return _json(_shown(found))
        except NearfarError as error:
            return failed(error)

    async def pull(self, request: HttpRequest) -> Response | LineStream:
        """Fetch a model, telling how far it is."""
        try:
            body = await self._allowed(request)
            if not body.stream:
                async with self.one_by_one:
                    await asyncio.to_thread(lambda: [None for _ in self.store.pull(body.said)])
                return _json({"status": "success"})
            lines = _pulling(self.store.pull(body.said), self.one_by_one)
            return LineStream(lines, timeout_s=_DAY_S)
        except NearfarError as error:
            return failed(error)

    async def delete(self, request: HttpRequest) -> Response:
        """Delete a model of the person's own folder."""
        try:
            body = await self._allowed(request)
            if await asyncio.to_thread(self.store.describe, body.said) is None:
                raise _unknown(body.said)
            await self.store.unload(body.said)
            await asyncio.to_thread(self.store.delete, body.said)
            return _json({})
        except NearfarError as error:
            return failed(error)

    async def _allowed(self, request: HttpRequest) -> OllamaModel:
        body = await self._read(request)
        if not self.may_change:
            raise BadRequest(
                "models are not fetched or deleted for clients; use `nearfar pull` and `rm`, or "
                "set serve.clients_change_models to true",
                status=403,
            )
        return body

    async def _read(self, request: HttpRequest) -> OllamaModel:
        return read_as(await read_body(request, self.options), OllamaModel)


async def _pulling(
    steps: Iterator[PullProgress], one_by_one: asyncio.Lock
) -> AsyncGenerator[bytes, None]:
    yield _line({"status": "pulling manifest"})
    try:
        async with one_by_one:
            while (step := await asyncio.to_thread(next, steps, None)) is not None:
                yield _line(
                    {
                        "status": f"pulling {step.file}",
                        "digest": step.file,
                        "total": step.total_bytes,
                        "completed": step.done_bytes,
                    }
                )
        yield _line({"status": "success"})
    except Exception as error:
        yield _line({"error": describe(error)[1].message})


def _listed(model: StoredModel) -> dict[str, Any]:
    return {
        "name": model.name,
        "model": model.name,
        "modified_at": stamp(model.modified_at),
        "size": model.size_bytes,
        "digest": model.digest,
        "details": _details(model),
    }


def _details(model: StoredModel) -> dict[str, Any]:
    card = model.card
    return {
        "parent_model": "",
        "format": model.format,
        "family": card.architecture,
        "families": [card.architecture],
        "parameter_size": _size(card.num_parameters),
        "quantization_level": card.quantization.upper(),
    }


def _size(num_parameters: int) -> str:
    if num_parameters >= 1e9:
        return f"{num_parameters / 1e9:.1f}B"
    return f"{num_parameters / 1e6:.0f}M"


def _shown(found: ModelDescription) -> dict[str, Any]:
    capabilities = ["completion"] if found.model.card.chat or not found.embeddings else []
    if "tools" in found.template:
        capabilities.append("tools")
    if "enable_thinking" in found.template:
        capabilities.append("thinking")
    if found.embeddings:
        capabilities.append("embedding")
    return {
        "modelfile": f"FROM {found.model.name}",
        "parameters": "",
        "template": found.template,
        "details": _details(found.model),
        "model_info": {
            key: value for key, value in found.settings.items() if not isinstance(value, list)
        },
        "capabilities": capabilities,
        "modified_at": stamp(found.model.modified_at),
    }


def _unknown(name: str) -> BadRequest:
    problem = f"model {name[:200]!r} not found; GET /api/tags lists those that are here"
    return BadRequest(problem, param="model", status=404)


def _json(body: object) -> Response:
    return json_response(msgspec.json.encode(body))


def _line(body: object) -> bytes:
    return msgspec.json.encode(body)
