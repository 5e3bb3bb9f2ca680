"""One completion endpoint: reads a body, asks the engine, sends the answer whole or as a stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Generic

import msgspec
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from offload.engine import Choosing, Engine
from offload.messages import Request
from serve.answers import Answers, Item, settled
from serve.asking import Asked, read_chat, read_completion
from serve.failures import BadRequest, body_of, describe
from serve.metrics import Metrics
from serve.options import ServeOptions
from serve.presence import while_present
from serve.routing import headers_of
from serve.schema import B, ChatBody, CompletionBody, decode
from serve.stream import EventStream
from serve.writer import ChatWriter, Gathered, TextWriter, Writer

_SEND_GRACE_S = 10.0  # after the answer's own time, for a reader who takes it slowly


@dataclass(frozen=True, kw_only=True)
class Completing(Generic[B]):
    """An ASGI app for one path; every error before the response begins becomes an error body."""

    engine: Engine
    options: ServeOptions
    metrics: Metrics
    kind: type[B]
    read: Callable[[B, Engine, ServeOptions], Asked]
    writer: Callable[[Asked], Writer]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            raw = await read_body(HttpRequest(scope, receive), self.options)
            asked = self.read(decode(raw, self.kind), self.engine, self.options)
            limit_s = self.options.request_timeout_s + _SEND_GRACE_S
            work = self._answer(asked, scope, receive, send)
            await while_present(receive, work, timeout_s=limit_s)
        except ClientDisconnect:
            return
        except Exception as error:
            await error_response(error)(scope, receive, send)

    async def _answer(self, asked: Asked, scope: Scope, receive: Receive, send: Send) -> None:
        start = self._settled if asked.stream else self.engine.generate
        async with Answers(
            start,
            asked.requests,
            metrics=self.metrics,
            timeout_s=self.options.request_timeout_s,
        ) as answers:
            if asked.stream:
                await EventStream(self.writer(asked), send).send_all(answers)
                return
            response = await self._whole(asked, answers)
        await response(scope, receive, send)

    def _settled(self, request: Request) -> AsyncIterator[Item]:
        engine = self.engine
        may_replace = isinstance(engine, Choosing) and engine.may_replace(request)
        return settled(engine.generate(request), may_replace=may_replace)

    async def _whole(self, asked: Asked, answers: Answers) -> Response:
        choices = [Gathered() for _ in asked.requests]
        while (entry := await answers.next()) is not None:
            index, item = entry
            choices[index].take(item)
        body = msgspec.json.encode(self.writer(asked).whole(choices))
        response = Response(body, media_type="application/json")
        response.raw_headers += headers_of([c.finish for c in choices if c.finish is not None])
        return response


def chat_endpoint(engine: Engine, options: ServeOptions, metrics: Metrics) -> Completing[ChatBody]:
    """Return the app of POST /v1/chat/completions."""
    return Completing(
        engine=engine,
        options=options,
        metrics=metrics,
        kind=ChatBody,
        read=read_chat,
        writer=ChatWriter,
    )


def text_endpoint(
    engine: Engine, options: ServeOptions, metrics: Metrics
) -> Completing[CompletionBody]:
    """Return the app of POST /v1/completions."""
    return Completing(
        engine=engine,
        options=options,
        metrics=metrics,
        kind=CompletionBody,
        read=read_completion,
        writer=TextWriter,
    )


async def read_body(request: HttpRequest, options: ServeOptions) -> bytes:
    """Return the body. Raises BadRequest where it is not JSON by name, too large or too slow."""
    # A page of another site can post a form or plain text unasked, but not this type.
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise BadRequest(
            "the body is not announced as JSON; send the header Content-Type: application/json",
            status=415,
        )
    try:
        return await asyncio.wait_for(_collect(request, options), options.body_timeout_s)
    except asyncio.TimeoutError:
        raise BadRequest(
            f"the body did not come within {options.body_timeout_s:g} s; send it faster", status=408
        ) from None


async def _collect(request: HttpRequest, options: ServeOptions) -> bytes:
    parts: list[bytes] = []
    size, most = 0, options.max_body_bytes
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:20]) > most:
        raise _too_large(most)
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise _too_large(most)
        parts.append(part)
    return b"".join(parts)


def _too_large(most: int) -> BadRequest:
    return BadRequest(f"the body has more than {most} bytes; shorten it", status=413)


def error_response(error: Exception) -> Response:
    """Return the response that tells of an error."""
    status, problem = describe(error)
    response = Response(body_of(problem), status_code=status, media_type="application/json")
    if status == 503:
        response.headers["retry-after"] = "1"
    return response
