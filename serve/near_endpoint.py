"""Near endpoint: the near model for other commands of the same person, who alone has the token."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
from collections.abc import AsyncGenerator
from typing import Protocol, TypeVar

import msgspec
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from backbone.errors import NearfarError
from offload.asker import asked_by
from offload.config.running_service import (
    FORGET_PATH,
    GENERATE_PATH,
    NearForget,
    NearLine,
    NearQuestion,
    told_of,
)
from offload.config.settings import EdgeSettings
from offload.engine import Engine, SessionKeeping
from offload.messages import Delta, Finish, ModelCard, Request, Side
from offload.reading import heard_by
from serve.app import AppParts
from serve.http_bodies import error_response, json_response, read_body
from serve.http_errors import BadRequest
from serve.line_stream import LineStream
from serve.options import ServeOptions

_DAY_S = 86_400.0  # an answer has the time that its request gives it
MAX_BODY_BYTES = 64 << 20  # the text of a whole conversation with its files
T = TypeVar("T", NearQuestion, NearForget)


class NearModels(Protocol):
    """The near models of a service, by their settings."""

    def engine_at(self, edge: EdgeSettings) -> Engine:
        """Return the engine of a model, `edge.model` being its path. Raises NearfarError."""
        ...


class NearEndpoint:
    """Routes by which `nearfar ask` and `chat` use the model that a service holds in memory."""

    def __init__(self, models: NearModels, token: str) -> None:
        self._models, self._token = models, token.encode()
        self._options = ServeOptions(max_body_bytes=MAX_BODY_BYTES)

    def routes(self, _: AppParts) -> list[Route]:
        """Return the routes."""
        return [
            Route(GENERATE_PATH, self._generate, methods=["POST"]),
            Route(FORGET_PATH, self._forget, methods=["POST"]),
        ]

    async def _generate(self, request: HttpRequest) -> Response | LineStream:
        try:
            asked = await self._read(request, NearQuestion)
            engine = self._models.engine_at(asked.edge)
        except NearfarError as error:
            return error_response(error)
        return LineStream(_answer(engine, asked), timeout_s=_DAY_S)

    async def _forget(self, request: HttpRequest) -> Response:
        try:
            asked = await self._read(request, NearForget)
            engine = self._models.engine_at(asked.edge)
            if isinstance(engine, SessionKeeping):
                with asked_by(""):
                    await engine.forget(asked.session)
        except NearfarError as error:
            return error_response(error)
        return json_response(b"{}")

    async def _read(self, request: HttpRequest, kind: type[T]) -> T:
        given = request.headers.get("authorization", "").removeprefix("Bearer ").encode()
        if not hmac.compare_digest(given, self._token):
            raise BadRequest("this path is for nearfar's own commands; use /v1", status=401)
        raw = await read_body(request, self._options)
        try:
            return msgspec.json.decode(raw, type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise BadRequest("this is of another version of nearfar; start it again") from None


async def _answer(engine: Engine, asked: NearQuestion) -> AsyncGenerator[bytes, None]:
    """Yield the lines; where the reader leaves, the generator is closed and the answer ends."""
    lines: asyncio.Queue[NearLine | None] = asyncio.Queue()
    writing = asyncio.ensure_future(_write(engine, asked.request, lines))
    try:
        while (line := await lines.get()) is not None:
            yield msgspec.json.encode(line)
    finally:
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)


async def _write(engine: Engine, request: Request, lines: asyncio.Queue[NearLine | None]) -> None:
    def read(num_read: int, num_tokens: int, _: Side) -> None:
        lines.put_nowait(NearLine(read=(num_read, num_tokens)))

    try:
        # The person's own commands share their conversations, whichever process has the model.
        with asked_by(""), heard_by(read):
            async with contextlib.aclosing(engine.generate(request)) as items:
                card: ModelCard | None = None
                async for item in items:
                    if card is None:
                        card = engine.card()
                        lines.put_nowait(NearLine(card=card))
                    lines.put_nowait(_line(item))
    except NearfarError as error:
        lines.put_nowait(told_of(error))
    finally:
        lines.put_nowait(None)


def _line(item: Delta | Finish) -> NearLine:
    return NearLine(finish=item) if isinstance(item, Finish) else NearLine(delta=item)
