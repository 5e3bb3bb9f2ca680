"""Completion endpoint: reads a body, asks the engine, sends the answer whole or as a stream."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Generic, TypeVar

import msgspec
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from offload.engine import ByModel, Engine
from offload.hybrid.settled import settled_answer
from serve.admission import Account, Admission
from serve.answer_streams import STOPPING, AnswerStreams, Start
from serve.auth import tenant_of
from serve.carried import as_carried
from serve.chat_writer import ChatWriter
from serve.event_stream import EventStream, headers_of
from serve.http_bodies import error_response, json_response, read_body, while_present
from serve.metrics import Metrics
from serve.model_names import engine_of
from serve.options import ServeOptions
from serve.request_parsing import ParsedRequest, read_chat, read_completion
from serve.request_schema import ChatBody, Common, CompletionBody, decode
from serve.response_writer import Gathered, ResponseWriter
from serve.responses_body import ResponsesBody, read_responses
from serve.responses_writer import ResponsesWriter
from serve.text_writer import TextWriter

C = TypeVar("C", bound=Common | ResponsesBody)
_SEND_GRACE_S = 10.0  # after the answer's own time, for a reader who takes it slowly


@dataclass(frozen=True, kw_only=True)
class ApiForm(Generic[C]):
    """API form: what a path's body is, how it becomes requests, and what writes their answers."""

    kind: type[C]
    read: Callable[[C, Engine, ServeOptions], ParsedRequest]
    writer: Callable[[ParsedRequest], ResponseWriter]


@dataclass(frozen=True, kw_only=True)
class CompletionEndpoint(Generic[C]):
    """Completion endpoint, an ASGI app for one path; early errors become error bodies."""

    engine: Engine
    models: ByModel | None
    options: ServeOptions
    metrics: Metrics
    admission: Admission
    form: ApiForm[C]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            tenant = tenant_of(scope)
            self.admission.check(tenant)
            raw = await read_body(HttpRequest(scope, receive), self.options)
            body = decode(raw, self.form.kind)
            engine, name = engine_of(body.model, self.engine, self.models)
            parsed = self.form.read(msgspec.structs.replace(body, model=name), engine, self.options)
            requests = as_carried(parsed.requests, scope)
            parsed = replace(parsed, model=body.model, requests=requests)
            limit_s = self.options.request_timeout_s + _SEND_GRACE_S
            work = self._admitted(parsed, engine, tenant, scope, receive, send)
            await while_present(receive, work, timeout_s=limit_s)
        except ClientDisconnect:
            return
        except Exception as error:
            await error_response(error)(scope, receive, send)

    async def _admitted(
        self,
        parsed: ParsedRequest,
        engine: Engine,
        tenant: str,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        async with self.admission.place(tenant, parsed.requests) as accounts:
            await self._answer(parsed, engine, accounts, scope, receive, send)

    async def _answer(
        self,
        parsed: ParsedRequest,
        engine: Engine,
        accounts: list[Account],
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        start = settled_start(engine) if parsed.stream else engine.generate
        async with AnswerStreams(
            start,
            parsed.requests,
            metrics=self.metrics,
            accounts=accounts,
            timeout_s=self.options.request_timeout_s,
            stopping=scope.get(STOPPING),
        ) as answers:
            if parsed.stream:
                await EventStream(self.form.writer(parsed), send).send_all(answers)
                return
            response = await self._whole(parsed, answers)
        await response(scope, receive, send)

    async def _whole(self, parsed: ParsedRequest, answers: AnswerStreams) -> Response:
        choices = [Gathered() for _ in parsed.requests]
        while (entry := await answers.next()) is not None:
            index, item = entry
            choices[index].take(item)
        body = msgspec.json.encode(self.form.writer(parsed).whole(choices))
        response = json_response(body)
        response.raw_headers += headers_of([c.finish for c in choices if c.finish is not None])
        return response


def settled_start(engine: Engine) -> Start:
    """Return what begins an answer of which only what a reader may keep is streamed."""
    return partial(settled_answer, engine)


CHAT = ApiForm(kind=ChatBody, read=read_chat, writer=ChatWriter)
RESPONSES = ApiForm(kind=ResponsesBody, read=read_responses, writer=ResponsesWriter)
COMPLETIONS = ApiForm(kind=CompletionBody, read=read_completion, writer=TextWriter)
