"""Answers of Ollama's API: /api/chat, /api/generate and /api/embed over the engines of serve."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import msgspec
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from backbone.errors import cause
from offload.engine import Embedding, Engine, held_in_memory
from offload.messages import Finish
from offload.model_store import ModelStore
from serve.answer_streams import STOPPING, AnswerStreams
from serve.app import AppParts
from serve.auth import tenant_of
from serve.completion_endpoint import settled_start
from serve.http_bodies import json_response, read_body, while_present
from serve.http_errors import BadRequest, describe
from serve.line_stream import LineStream
from serve.model_names import engine_of
from serve.ollama.bodies import OllamaChat, OllamaEmbed, OllamaGenerate
from serve.ollama.lines import LineWriter, loaded
from serve.request_parsing import ParsedRequest, read_chat, read_completion
from serve.request_schema import ChatBody, require_few_containers
from serve.response_writer import Gathered

T = TypeVar("T")
_SEND_GRACE_S = 10.0


def read_as(raw: bytes, kind: type[T]) -> T:
    """Return a body of ollama's. Raises BadRequest."""
    require_few_containers(raw)
    try:
        return msgspec.json.decode(raw or b"{}", type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(
            f"the body is not what is taken ({cause(error)}); see docs/up.md"
        ) from None


def failed(error: Exception) -> Response:
    """Return the response that tells of an error in ollama's form."""
    status, problem = describe(error)
    return json_response(msgspec.json.encode({"error": problem.message}), status)


@dataclass(frozen=True, kw_only=True)
class OllamaAnswers:
    """An ASGI app of /api/chat or /api/generate."""

    parts: AppParts
    store: ModelStore
    kind: type[OllamaChat] | type[OllamaGenerate]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; every error before the first line becomes an error body."""
        began_s = time.monotonic()
        try:
            tenant = tenant_of(scope)
            self.parts.admission.check(tenant)
            raw = await read_body(HttpRequest(scope, receive), self.parts.options)
            body = read_as(raw, self.kind)
            engine, name = engine_of(body.model, self.parts.engine, self.parts.models)
            if body.only_loads:
                work = self._load(body, engine, scope, receive, send)
            else:
                asked = self._asked(body, engine, name)
                run = _Run(self, body, engine, asked, began_s)
                work = run.answer(tenant, scope, receive, send)
            limit_s = self.parts.options.request_timeout_s + _SEND_GRACE_S
            await while_present(receive, work, timeout_s=limit_s)
        except ClientDisconnect:
            return
        except Exception as error:
            await failed(error)(scope, receive, send)

    def _asked(self, body: OllamaChat | OllamaGenerate, engine: Engine, name: str) -> ParsedRequest:
        asked, options = body.asked(name), self.parts.options
        if isinstance(asked, ChatBody):
            read = read_chat(asked, engine, options)
        else:
            read = read_completion(asked, engine, options)
        return replace(read, model=body.model)

    async def _load(
        self,
        body: OllamaChat | OllamaGenerate,
        engine: Engine,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        keep_alive_s = body.keep_alive_s()
        if keep_alive_s == 0:
            if not await self.store.unload(body.model):
                problem = f"{body.model} is answering; ask again when it is done"
                raise BadRequest(problem, status=409)
        else:
            async with held_in_memory(engine, keep_alive_s):
                pass
        reason = "unload" if keep_alive_s == 0 else "load"
        told_of = loaded(body.model, is_chat=self.kind is OllamaChat, reason=reason)
        await json_response(msgspec.json.encode(told_of))(scope, receive, send)


class _Run:
    """One answer, with the model held in memory around it."""

    def __init__(
        self,
        endpoint: OllamaAnswers,
        body: OllamaChat | OllamaGenerate,
        engine: Engine,
        asked: ParsedRequest,
        began_s: float,
    ) -> None:
        self._parts, self._body = endpoint.parts, body
        self._engine, self._asked, self._began_s = engine, asked, began_s
        self._is_chat = endpoint.kind is OllamaChat

    async def answer(self, tenant: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer, as lines or whole."""
        async with AsyncExitStack() as stack:
            place = self._parts.admission.place(tenant, self._asked.requests)
            accounts = await stack.enter_async_context(place)
            before_s = time.monotonic()
            keep_alive_s = self._body.keep_alive_s()
            await stack.enter_async_context(held_in_memory(self._engine, keep_alive_s))
            writer = LineWriter(
                self._asked,
                is_chat=self._is_chat,
                began_s=self._began_s,
                load_s=time.monotonic() - before_s,
            )
            start = settled_start(self._engine) if self._body.stream else self._engine.generate
            answers = await stack.enter_async_context(
                AnswerStreams(
                    start,
                    self._asked.requests,
                    metrics=self._parts.metrics,
                    accounts=accounts,
                    timeout_s=self._parts.options.request_timeout_s,
                    stopping=scope.get(STOPPING),
                )
            )
            if self._body.stream:
                first = await answers.next()  # what fails before is still an error of HTTP
                assert first is not None, "there is at least one request"
                lines = _lines(writer, first[1], answers)
                await LineStream(lines).send(send)
            else:
                whole = await _whole(writer, answers)
                await json_response(msgspec.json.encode(whole))(scope, receive, send)


async def _lines(
    writer: LineWriter, item: Any, answers: AnswerStreams
) -> AsyncGenerator[bytes, None]:
    try:
        while True:
            lines = writer.end(item) if isinstance(item, Finish) else writer.piece(item)
            for line in lines:
                yield msgspec.json.encode(line)
            entry = await answers.next()
            if entry is None:
                return
            item = entry[1]
    except Exception as error:
        yield msgspec.json.encode({"error": describe(error)[1].message})


async def _whole(writer: LineWriter, answers: AnswerStreams) -> dict[str, Any]:
    answer = Gathered()
    while (entry := await answers.next()) is not None:
        answer.take(entry[1])
    return writer.whole(answer)


@dataclass(frozen=True, kw_only=True)
class OllamaEmbeddings:
    """An ASGI app of /api/embed, or of the older /api/embeddings, which takes one text."""

    parts: AppParts
    is_older: bool = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        try:
            tenant = tenant_of(scope)
            self.parts.admission.check(tenant)
            raw = await read_body(HttpRequest(scope, receive), self.parts.options)
            work = self._answer(read_as(raw, OllamaEmbed), tenant, scope, receive, send)
            await while_present(receive, work, timeout_s=self.parts.options.request_timeout_s)
        except ClientDisconnect:
            return
        except Exception as error:
            await failed(error)(scope, receive, send)

    async def _answer(
        self, body: OllamaEmbed, tenant: str, scope: Scope, receive: Receive, send: Send
    ) -> None:
        began_s, texts = time.monotonic(), body.texts()
        engine, _ = engine_of(body.model, self.parts.engine, self.parts.models)
        if not isinstance(engine, Embedding):
            raise BadRequest("this model makes no embeddings; choose another", param="model")
        async with self.parts.admission.place(tenant), held_in_memory(engine, body.keep_alive_s()):
            load_s = time.monotonic() - began_s
            vectors = await engine.embed(texts) if texts else []
        if self.is_older:
            reply: dict[str, Any] = {"embedding": vectors[0] if vectors else []}
        else:
            took_ns = round((time.monotonic() - began_s) * 1e9)
            reply = {"model": body.model, "embeddings": vectors, "total_duration": took_ns}
            # How many tokens the texts had no engine counts.
            reply |= {"load_duration": round(load_s * 1e9), "prompt_eval_count": 0}
        await json_response(msgspec.json.encode(reply))(scope, receive, send)
