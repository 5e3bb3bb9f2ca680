"""POST /v1/embeddings: texts as vectors, where the engine can."""

from __future__ import annotations

import base64
import struct
from dataclasses import dataclass

import msgspec
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.types import Receive, Scope, Send

from offload.engine import Embedding, Engine
from serve.admission import Admission
from serve.auth import tenant_of
from serve.bodies import error_response, json_response, read_body
from serve.failures import BadRequest
from serve.naming import check_name
from serve.options import ServeOptions
from serve.presence import while_present
from serve.replies import EmbeddingList, EmbeddingReply
from serve.schema import EmbeddingBody, decode
from serve.turns import refuse_unless


@dataclass(frozen=True, kw_only=True)
class EmbeddingEndpoint:
    """An ASGI app; every error becomes an error body."""

    engine: Engine
    options: ServeOptions
    admission: Admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            tenant = tenant_of(scope)
            self.admission.check(tenant)
            body = decode(await read_body(HttpRequest(scope, receive), self.options), EmbeddingBody)
            work = self._answer(body, tenant, scope, receive, send)
            await while_present(receive, work, timeout_s=self.options.request_timeout_s)
        except ClientDisconnect:
            return
        except Exception as error:
            await error_response(error)(scope, receive, send)

    async def _answer(
        self, body: EmbeddingBody, tenant: str, scope: Scope, receive: Receive, send: Send
    ) -> None:
        async with self.admission.place(tenant):
            vectors = await self._embed(body)
        as_text = body.encoding_format == "base64"
        rows = [
            EmbeddingReply(_packed(vector) if as_text else vector, index)
            for index, vector in enumerate(vectors)
        ]
        reply = EmbeddingList(rows, body.model)
        await json_response(msgspec.json.encode(reply))(scope, receive, send)

    async def _embed(self, body: EmbeddingBody) -> list[list[float]]:
        check_name(body.model, self.engine)
        refuse_unless(body.dimensions is None, "dimensions", "leave it out")
        texts = [body.input] if isinstance(body.input, str) else body.input
        if not all(text.strip() for text in texts):
            raise BadRequest("input holds an empty text; write one", param="input")
        if not isinstance(self.engine, Embedding):
            raise BadRequest("this model makes no embeddings; serve one that does", param="model")
        return await self.engine.embed(texts)


def _packed(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
