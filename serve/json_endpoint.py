"""A path that takes one JSON body and answers with another, from what an engine knows at once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic

import msgspec
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.types import Receive, Scope, Send

from offload.engine import Engine
from serve.admission import Admission
from serve.auth import tenant_of
from serve.disconnect import while_present
from serve.http_bodies import error_response, json_response, read_body
from serve.options import ServeOptions
from serve.request_schema import B, decode


@dataclass(frozen=True, kw_only=True)
class Posted(Generic[B]):
    """An ASGI app; every error becomes an error body."""

    engine: Engine
    options: ServeOptions
    admission: Admission
    kind: type[B]
    answer: Callable[[B, Engine], Awaitable[msgspec.Struct]]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            tenant = tenant_of(scope)
            self.admission.check(tenant)
            body = decode(await read_body(HttpRequest(scope, receive), self.options), self.kind)
            work = self._answer(body, tenant, scope, receive, send)
            await while_present(receive, work, timeout_s=self.options.request_timeout_s)
        except ClientDisconnect:
            return
        except Exception as error:
            await error_response(error)(scope, receive, send)

    async def _answer(
        self, body: B, tenant: str, scope: Scope, receive: Receive, send: Send
    ) -> None:
        async with self.admission.place(tenant):
            reply = await self.answer(body, self.engine)
        await json_response(msgspec.json.encode(reply))(scope, receive, send)
